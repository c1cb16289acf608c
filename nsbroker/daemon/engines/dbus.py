"""Calls to systemd and its services over D-Bus, all over one connection.

The bus allows only few connections of one uid, and all programs on the host that run as root share them.
"""

from typing import Any, NoReturn

import trio
from jeepney import DBusAddress, DBusErrorResponse, Properties, new_method_call
from jeepney.auth import AuthenticationError
from jeepney.low_level import Message
from jeepney.wrappers import unwrap_msg

from nsbroker.daemon.engines.dbus_connection import PLACE, Connection, ConnectionLostError, connect
from nsbroker.errors import EngineUnavailable

_ERROR = "org.freedesktop.DBus.Error."
_ABSENT = (f"{_ERROR}ServiceUnknown", f"{_ERROR}NameHasNoOwner")
_GONE = (f"{_ERROR}UnknownObject", f"{_ERROR}UnknownInterface")
# The connection is closed when it was not used for _IDLE seconds, and given up when a call waits _PATIENCE seconds for its reply.
_IDLE = 3.0
_PATIENCE = 10.0
# Calls in flight to one service.  The bus lets a connection wait for 128 replies.
_AT_ONCE = 8


class NoService(EngineUnavailable):
    """No program on the bus provides the service."""


class NotThere(Exception):
    """The service replied with an error of its own: it does not know what it was asked for."""


class _SharedConnection:
    """The connection that all share, with a limit of calls in flight to each service.  There is one for each run of trio."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._opening = trio.Lock()
        self._limiters: dict[str, trio.CapacityLimiter] = {}

    async def call(self, service: str, message: Message) -> Message:
        """Send a method call and return its reply.  Raises ConnectionLostError, OSError, AuthenticationError."""
        limiter = self._limiters.setdefault(service, trio.CapacityLimiter(_AT_ONCE))
        borrower = object()
        await limiter.acquire_on_behalf_of(borrower)
        try:
            connection = await self._open()
        except BaseException:
            limiter.release_on_behalf_of(borrower)
            raise
        # The call counts until its reply comes, even when its caller is gone: a client that hangs up and calls again must not
        # get more calls in flight than others.
        return await connection.call(message, lambda: limiter.release_on_behalf_of(borrower))

    async def _open(self) -> Connection:
        async with self._opening:
            if self._connection is None or not self._connection.is_usable():
                if self._connection is not None:
                    self._connection.close("replaced by another")
                self._connection = await connect()
                trio.lowlevel.spawn_system_task(self._connection.serve, _IDLE, _PATIENCE)
            return self._connection


_shared: trio.lowlevel.RunVar[_SharedConnection] = trio.lowlevel.RunVar("nsbroker's connection to the system bus")


class Bus:
    """Calls the methods of `service`; errors name `engine`.  It owns nothing: all instances share one connection."""

    def __init__(self, service: str, engine: str) -> None:
        self._service = service
        self._engine = engine

    async def call(
        self, path: str, interface: str, method: str, signature: str | None = None, *arguments: object
    ) -> tuple[Any, ...]:
        """Call `method` and return its results.  Raises EngineUnavailable, and NotThere for an error of the service's own."""
        address = DBusAddress(path, self._service, interface)
        return await self._call(new_method_call(address, method, signature, arguments))

    async def property(self, path: str, interface: str, name: str) -> Any:
        """Return one property of an object.  Raises like `call`."""
        ((_, value),) = await self._call(Properties(DBusAddress(path, self._service, interface)).get(name))
        return value

    async def properties(self, path: str, interface: str) -> dict[str, Any]:
        """Return all properties of an object, without the signatures of their values.  Raises like `call`."""
        (values,) = await self._call(Properties(DBusAddress(path, self._service, interface)).get_all())
        return {name: value for name, (_, value) in values.items()}

    async def _call(self, message: Message) -> tuple[Any, ...]:
        try:
            reply = await self._send(message)
        except ConnectionLostError:
            try:
                reply = await self._send(message)
            except ConnectionLostError as error:
                raise EngineUnavailable(self._engine, str(error)) from error
        try:
            return tuple(unwrap_msg(reply))
        except DBusErrorResponse as error:
            self._fail(error)

    async def _send(self, message: Message) -> Message:
        try:
            shared = _shared.get()
        except LookupError:
            shared = _SharedConnection()
            _shared.set(shared)
        try:
            return await shared.call(self._service, message)
        except OSError as error:
            raise EngineUnavailable(self._engine, f"no D-Bus at {PLACE}: {error.strerror or error}") from error
        except AuthenticationError as error:
            raise EngineUnavailable(self._engine, f"logging in to D-Bus failed: {error}") from error

    def _fail(self, error: DBusErrorResponse) -> NoReturn:
        name = str(error.name)
        text = " ".join(str(part) for part in error.data)
        if name in _ABSENT:
            raise NoService(self._engine, f"{self._service} does not run on this host") from error
        if name.startswith(_ERROR) and name not in _GONE:
            raise EngineUnavailable(self._engine, f"{self._service}: {text or name}") from error
        raise NotThere(text or name) from error
