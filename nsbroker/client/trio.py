"""The trio front.

async with nsbroker.client.trio.connect() as broker:
    with await broker.open("pid:4711", "net") as ns:
        ...
"""

import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import trio

from nsbroker.address import socket_path
from nsbroker.client import core
from nsbroker.errors import ConnectionLost
from nsbroker.identity import Expectation, NamespaceType
from nsbroker.interface import ExplainReply, HeldDescription, PeerDescription, Status
from nsbroker.namespace import Namespace
from nsbroker.varlink.connection import IncomingReply

T = TypeVar("T")
R = TypeVar("R")


@contextlib.asynccontextmanager
async def connect(address: str | None = None) -> AsyncIterator["Broker"]:
    """Connect to the broker at `address`, by default $NSBROKER_ADDRESS or the usual place.

    Raises ConnectionFailed, and InvalidAddress for what is no address.
    """
    path = socket_path(address)
    broker = Broker(await _connected(path), path)
    try:
        yield broker
    finally:
        broker.close()


async def _connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # A Unix socket connects at once, unless its listener has no room left.
        while True:
            await trio.lowlevel.checkpoint()
            try:
                sock.connect(str(path))
                return sock
            except BlockingIOError:
                await trio.sleep(0.01)
    except OSError as error:
        sock.close()
        raise core.connect_failed(path, error) from error
    except BaseException:
        sock.close()
        raise


class Broker:
    """A connection to the broker.  Tasks may share it: calls go one after the other.

    A call that is cancelled ends the connection, since its answer may be under way.  A connection that ended between two
    calls, so or because the broker was restarted, is made anew by itself.
    """

    def __init__(self, sock: socket.socket, path: Path) -> None:
        """Use `connect`.  Takes `sock`, non-blocking and connected to `path`."""
        self._path = path
        self._wire = core.Wire(sock)
        self._lock = trio.Lock()

    async def open(self, target: core.Where, type: str, *, expect: Expectation | None = None) -> Namespace:
        """Open one namespace of `target`; the handle is the caller's.  Raises the errors of `nsbroker.errors`; TargetChanged
        when it is not what `expect` says.
        """
        return (await self._call(core.open_namespaces(target, [type], expect))).popitem()[1]

    async def open_all(
        self, target: core.Where, types: Iterable[str] | None = None, *, expect: Expectation | None = None
    ) -> dict[NamespaceType, Namespace]:
        """Open several namespaces of `target` (None: all it has), all or none; the handles are the caller's."""
        return await self._call(core.open_namespaces(target, types, expect))

    async def explain(self, target: core.Where, types: Iterable[str] | None = None) -> ExplainReply:
        """What the policy says to `open_all` with the same arguments."""
        return await self._call(core.explain(target, types))

    async def containers(self) -> core.ContainerList:
        """The containers of which this process may have something opened, and the engines that could not be asked."""
        return await self._call(core.list_containers())

    async def create(self, types: Iterable[str], *, name: str | None = None) -> core.Created:
        """Have new namespaces made; the handles are the caller's.  With `name` the broker holds them, too, until `release`.

        Raises NameTaken, QuotaExceeded, PermissionDenied.
        """
        return await self._call(core.create(types, name))

    async def hold(self, target: core.Where, name: str, types: Iterable[str] | None = None) -> bool:
        """Have namespaces of `target` (None: all it has) held under `name` until `release`; whether they outlive a restart
        of the broker.  Raises as `create`.
        """
        return await self._call(core.hold(target, types, name))

    async def release(self, name: str) -> None:
        """Let go of what this user holds under `name`.  Raises PermissionDenied, NoSuchTarget."""
        await self._call(core.release(name))

    async def held(self) -> list[HeldDescription]:
        """What this user holds, or may open of what others hold."""
        return await self._call(core.list_held())

    async def who_am_i(self) -> PeerDescription:
        """Who the broker takes this process for."""
        return await self._call(core.who_am_i())

    async def status(self) -> Status:
        """How the broker is doing."""
        return await self._call(core.status())

    async def _call(self, request: core.Request[T]) -> T:
        wire = self._wire
        async with self._lock:
            if wire.is_over(request):
                wire.replace(await _connected(self._path))
            try:
                replies = await self._exchange(request)
            except core.NotTaken:
                wire.replace(await _connected(self._path))
                replies = await self._exchange(request)
        return core.finish(request, replies)

    async def _exchange(self, request: core.Request[T]) -> Sequence[IncomingReply]:
        wire = self._wire
        wire.start(request)
        try:
            while not await self._step(wire.send_some, trio.lowlevel.wait_writable):
                pass
            await trio.lowlevel.wait_readable(wire.sock)
            while (replies := await self._step(lambda: wire.receive_some(request), trio.lowlevel.wait_readable)) is None:
                pass
        except BaseException as error:
            # Half a call or half an answer: nothing on this connection would be what it seems.
            wire.drop()
            if isinstance(error, trio.ClosedResourceError):
                raise ConnectionLost(f"{request.what()}: the connection was closed meanwhile") from error
            raise
        return replies

    async def _step(self, step: Callable[[], R], wait: Callable[[socket.socket], Awaitable[None]]) -> R:
        while True:
            try:
                return step()
            except BlockingIOError:
                await wait(self._wire.sock)

    def close(self) -> None:
        """End the connection.  Twice is harmless; handles that were opened stay open."""
        if self._wire.sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._wire.sock)
        self._wire.close()
