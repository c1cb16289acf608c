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
from jeepney.low_level import Message, MessageType, calc_msg_size
from jeepney.wrappers import unwrap_msg

from nsbroker.errors import EngineUnavailable

_ERROR = "org.freedesktop.DBus.Error."
_ABSENT = (f"{_ERROR}ServiceUnknown", f"{_ERROR}NameHasNoOwner")
_GONE = (f"{_ERROR}UnknownObject", f"{_ERROR}UnknownInterface")
_HEADER = 16
_REPLY_MAX = 4 * 1024 * 1024
_PLACE = "/run/dbus/system_bus_socket"


class NoService(EngineUnavailable):
    """Nobody offers the service."""


class NotThere(Exception):
    """The service knows no such thing."""


class Bus:
    """A connection to the system bus (borrowed).  `service` is the name of who is asked; one question at a time."""

    def __init__(self, stream: trio.SocketStream, service: str, engine: str) -> None:
        self._stream = stream
        self._service = service
        self._engine = engine
        self._serial = 0
        self._buffer = bytearray()

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
        self._serial += 1
        await self._stream.send_all(message.serialise(self._serial))
        while True:
            reply = await self._receive()
            if reply.header.fields.get(HeaderFields.reply_serial) == self._serial:
                break
        try:
            return tuple(unwrap_msg(reply))
        except DBusErrorResponse as error:
            raise self._failure(error) from error

    async def _receive(self) -> Message:
        """The next reply.  Anybody may send us signals of any size: what is no reply is skipped, and not parsed."""
        while True:
            await self._fill(_HEADER)
            size = calc_msg_size(bytes(self._buffer[:_HEADER]))
            if self._buffer[1] not in (MessageType.method_return.value, MessageType.error.value):
                await self._skip(size)
                continue
            if size > _REPLY_MAX:
                raise EngineUnavailable(self._engine, f"{self._service} answers with more than {_REPLY_MAX} bytes")
            await self._fill(size)
            data = bytes(self._buffer[:size])
            del self._buffer[:size]
            return Message.from_buffer(data)

    async def _fill(self, size: int) -> None:
        while len(self._buffer) < size:
            piece = await self._stream.receive_some()
            if not piece:
                raise EngineUnavailable(self._engine, "D-Bus hung up")
            self._buffer += piece

    async def _skip(self, size: int) -> None:
        while size > 0:
            await self._fill(1)
            done = min(size, len(self._buffer))
            del self._buffer[:done]
            size -= done

    def _failure(self, error: DBusErrorResponse) -> Exception:
        name = str(error.name)
        said = " ".join(str(part) for part in error.data)
        if name in _ABSENT:
            return NoService(self._engine, f"{self._service} does not run here")
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
            bus = Bus(stream, service, engine)
            await bus.ask(message_bus.Hello())
            yield bus
        except (trio.BrokenResourceError, AuthenticationError) as error:
            raise EngineUnavailable(engine, f"D-Bus hung up: {error}") from error


async def _log_in(stream: trio.SocketStream) -> None:
    # Not jeepney's own connection: cancelled half-way it leaves the socket open, and it parses whatever comes.
    await stream.send_all(b"\0")
    login = Authenticator(inc_null_byte=False)
    for request in login:
        await stream.send_all(request)
        login.feed(await stream.receive_some())
    await stream.send_all(BEGIN)
