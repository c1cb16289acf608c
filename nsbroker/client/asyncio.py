"""The trio front.

async with nsbroker.client.trio.connect() as broker:
with await broker.open("pid:4711", "net") as ns: ...
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TypeVar

from nsbroker.address import socket_path
from nsbroker.client import core
from nsbroker.identity import Expectation, NamespaceType
from nsbroker.interface import ExplainReply, PeerDescription, Status
from nsbroker.linux import ancillary
from nsbroker.namespace import Namespace
from nsbroker.varlink.connection import IncomingReply
from nsbroker.varlink.framing import END

T = TypeVar("T")


@contextlib.asynccontextmanager
async def connect(address: str | None = None) -> AsyncIterator["Broker"]:
    """Connect to the broker at `address`, by default $NSBROKER_ADDRESS or the usual place.

    Raises ConnectionFailed, and ConfigurationError for what is no address.
    """
    path = socket_path(address)
    sock = core.new_socket()
    try:
        sock.setblocking(False)
        try:
            # A Unix socket connects at once, or its listener has no room left: then a connection is waited for in turn.
            await _until_room(sock, str(path))
        except OSError as error:
            raise core.connect_failed(path, error) from error
        broker = Broker(sock)
        try:
            yield broker
        finally:
            broker.close()
    finally:
        sock.close()


async def _until_room(sock: socket.socket, path: str) -> None:
    while True:
        try:
            return sock.connect(path)
        except BlockingIOError:
            await asyncio.sleep(0.01)


class Broker:
    """A connection to the broker.  Tasks may share it: calls go one after the other.  A call that is cancelled ends the
    connection, since its answer may be under way.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Use `connect`.  Borrows `sock`, connected and non-blocking."""
        self._sock = sock
        self._wire = core.Wire()
        self._buffer = core.new_buffer()
        self._lock = asyncio.Lock()
        self._loop = asyncio.get_running_loop()

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

    async def who_am_i(self) -> PeerDescription:
        """Who the broker takes this process for."""
        return await self._call(core.who_am_i())

    async def status(self) -> Status:
        """How the broker is doing."""
        return await self._call(core.status())

    async def _call(self, request: core.Request[T]) -> T:
        async with self._lock:
            if self._sock.fileno() < 0:
                raise core.closed(request.what)
            try:
                await self._send(request)
                reply = await self._receive(request)
            except BaseException:
                # Half a call or half an answer: nothing on this connection would be what it seems.
                self.close()
                raise
        return core.finish(request, reply)

    async def _send(self, request: core.Request[T]) -> None:
        rest = memoryview(self._wire.start(request))
        fds = request.fds
        # A broker that is full has answered and hung up already: then the answer is still to be read.
        with contextlib.suppress(BrokenPipeError):
            while rest:
                try:
                    rest = rest[ancillary.send(self._sock, rest, fds) :]
                except BlockingIOError:
                    await self._ready(self._loop.add_writer, self._loop.remove_writer)
                    continue
                fds = ()

    async def _receive(self, request: core.Request[T]) -> IncomingReply:
        while True:
            await self._ready(self._loop.add_reader, self._loop.remove_reader)
            try:
                data, fds = ancillary.receive_piece(self._sock, self._buffer, END)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                data = b""
            if not data:
                raise core.lost(request.what)
            self._wire.receive(data, fds)
            reply = self._wire.next_reply()
            if reply is not None:
                return reply

    async def _ready(self, add: Callable[..., object], remove: Callable[[int], object]) -> None:
        ready = self._loop.create_future()
        number = self._sock.fileno()
        add(number, _set_ready, ready)
        try:
            await ready
        finally:
            remove(number)

    def close(self) -> None:
        """End the connection.  Twice is harmless; handles that were opened stay open."""
        self._wire.close()
        self._sock.close()


def _set_ready(ready: "asyncio.Future[None]") -> None:
    # The loop may call once more before the descriptor is taken away from it.
    if not ready.done():
        ready.set_result(None)
