"""Asking systemd and its parts over D-Bus."""

import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from jeepney import DBusAddress, DBusErrorResponse, HeaderFields, Properties, new_method_call
from jeepney.auth import BEGIN, AuthenticationError, Authenticator
from jeepney.bus_messages import message_bus
from jeepney.io.trio import DBusConnection
from jeepney.low_level import Message
from jeepney.wrappers import unwrap_msg

from nsbroker.errors import EngineUnavailable

_ERROR = "org.freedesktop.DBus.Error."
_GONE = (f"{_ERROR}UnknownObject", f"{_ERROR}UnknownInterface")
_PLACE = "/run/dbus/system_bus_socket"


class NotThere(Exception):
    """The service knows no such thing."""


class Bus:
    """A connection to the system bus.  `service` is the name of who is asked; one question at a time."""

    def __init__(self, connection: Any, service: str, engine: str) -> None:
        self._connection = connection
        self._service = service
        self._engine = engine

    async def call(
        self, path: str, interface: str, method: str, signature: str | None = None, *arguments: object
    ) -> tuple[Any, ...]:
        """What `method` gives.  Raises EngineUnavailable, and NotThere for an error of the service's own."""
        address = DBusAddress(path, self._service, interface)
        return await self.ask(new_method_call(address, method, signature, arguments))

    async def properties(self, path: str, interface: str) -> dict[str, Any]:
        """All properties of an object, without the signatures of their values."""
        (values,) = await self.ask(Properties(DBusAddress(path, self._service, interface)).get_all())
        return {name: value for name, (_, value) in values.items()}

    async def ask(self, message: Message) -> tuple[Any, ...]:
        """What the service gives.  Raises as `call`."""
        serial = next(self._connection.outgoing_serial)
        await self._connection.send(message, serial=serial)
        while True:
            reply = await self._connection.receive()
            if reply.header.fields.get(HeaderFields.reply_serial) == serial:
                break
        try:
            return tuple(unwrap_msg(reply))
        except DBusErrorResponse as error:
            raise self._failure(error) from error

    def _failure(self, error: DBusErrorResponse) -> Exception:
        name = str(error.name)
        said = " ".join(str(part) for part in error.data)
        if name.startswith(_ERROR) and name not in _GONE:
            return EngineUnavailable(self._engine, f"{self._service}: {said or name}")
        return NotThere(said or name)


@asynccontextmanager
async def open_bus(service: str, engine: str) -> AsyncIterator[Bus]:
    """The system bus, to ask `service`.  Raises EngineUnavailable for `engine`."""
    try:
        facts = os.stat(_PLACE)
        if not stat.S_ISSOCK(facts.st_mode) or facts.st_uid != 0:
            raise EngineUnavailable(engine, f"{_PLACE} is not a socket of root's")
        stream = await trio.open_unix_socket(_PLACE)
    except OSError as error:
        raise EngineUnavailable(engine, f"no D-Bus at {_PLACE}: {error.strerror or error}") from error
    async with stream:
        try:
            await _log_in(stream)
            bus = Bus(DBusConnection(stream.socket), service, engine)
            await bus.ask(message_bus.Hello())
            yield bus
        except (trio.BrokenResourceError, trio.EndOfChannel, AuthenticationError) as error:
            raise EngineUnavailable(engine, f"D-Bus hung up: {error}") from error


async def _log_in(stream: trio.SocketStream) -> None:
    # Not jeepney's own open_dbus_connection(): cancelled half-way it would leave the socket open.
    await stream.send_all(b"\0")
    login = Authenticator(inc_null_byte=False)
    for request in login:
        await stream.send_all(request)
        login.feed(await stream.receive_some())
    await stream.send_all(BEGIN)
