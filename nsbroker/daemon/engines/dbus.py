"""Asking systemd and its parts over D-Bus, all over one connection: the bus has room for few of one uid's, and all of the
host's programs that run as root share those.
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
# The connection is closed when nobody asked for so long, and given up when a question waits for an answer for so long.
_IDLE = 3.0
_PATIENCE = 10.0
# Questions under way to one service.  The bus lets a connection wait for 128 answers.
_AT_ONCE = 8


class NoService(EngineUnavailable):
    """Nobody offers the service."""


class NotThere(Exception):
    """The service knows no such thing."""


class _Shared:
    """The connection that all share, and whose turn it is.  One for each run of trio."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._opening = trio.Lock()
        self._turns: dict[str, trio.CapacityLimiter] = {}

    async def ask(self, service: str, message: Message) -> Message:
        """The reply.  Raises ConnectionLostError, OSError, AuthenticationError."""
        turns = self._turns.setdefault(service, trio.CapacityLimiter(_AT_ONCE))
        question = object()
        await turns.acquire_on_behalf_of(question)
        try:
            connection = await self._open()
        except BaseException:
            turns.release_on_behalf_of(question)
            raise
        # The turn lasts until the answer comes, also when its caller is gone: who hangs up and asks again is not served more.
        return await connection.ask(message, lambda: turns.release_on_behalf_of(question))

    async def _open(self) -> Connection:
        async with self._opening:
            if self._connection is None or not self._connection.is_usable():
                if self._connection is not None:
                    self._connection.close("replaced by another")
                self._connection = await connect()
                trio.lowlevel.spawn_system_task(self._connection.serve, _IDLE, _PATIENCE)
            return self._connection


_shared: trio.lowlevel.RunVar[_Shared] = trio.lowlevel.RunVar("nsbroker's connection to the system bus")


class Bus:
    """Asks `service`, on behalf of `engine` in errors.  Owns nothing: the connection is everybody's."""

    def __init__(self, service: str, engine: str) -> None:
        self._service = service
        self._engine = engine

    async def call(
        self, path: str, interface: str, method: str, signature: str | None = None, *arguments: object
    ) -> tuple[Any, ...]:
        """What `method` gives.  Raises EngineUnavailable, and NotThere for an error of the service's own."""
        address = DBusAddress(path, self._service, interface)
        return await self._ask(new_method_call(address, method, signature, arguments))

    async def property(self, path: str, interface: str, name: str) -> Any:
        """One property of an object.  Raises as `call`."""
        ((_, value),) = await self._ask(Properties(DBusAddress(path, self._service, interface)).get(name))
        return value

    async def properties(self, path: str, interface: str) -> dict[str, Any]:
        """All properties of an object, without the signatures of their values."""
        (values,) = await self._ask(Properties(DBusAddress(path, self._service, interface)).get_all())
        return {name: value for name, (_, value) in values.items()}

    async def _ask(self, message: Message) -> tuple[Any, ...]:
        try:
            reply = await self._asked(message)
        except ConnectionLostError:
            try:
                reply = await self._asked(message)
            except ConnectionLostError as error:
                raise EngineUnavailable(self._engine, str(error)) from error
        try:
            return tuple(unwrap_msg(reply))
        except DBusErrorResponse as error:
            self._fail(error)

    async def _asked(self, message: Message) -> Message:
        try:
            shared = _shared.get()
        except LookupError:
            shared = _Shared()
            _shared.set(shared)
        try:
            return await shared.ask(self._service, message)
        except OSError as error:
            raise EngineUnavailable(self._engine, f"no D-Bus at {PLACE}: {error.strerror or error}") from error
        except AuthenticationError as error:
            raise EngineUnavailable(self._engine, f"D-Bus hung up: {error}") from error

    def _fail(self, error: DBusErrorResponse) -> NoReturn:
        name = str(error.name)
        said = " ".join(str(part) for part in error.data)
        if name in _ABSENT:
            raise NoService(self._engine, f"{self._service} does not run here") from error
        if name.startswith(_ERROR) and name not in _GONE:
            raise EngineUnavailable(self._engine, f"{self._service}: {said or name}") from error
        raise NotThere(said or name) from error
