"""The trio front.

async with nsbroker.client.trio.connect() as broker:
    with await broker.open("pid:4711", "net") as ns:
        ...
"""

import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import trio

from nsbroker.address import socket_path
from nsbroker.client.awaited import AwaitedBroker
from nsbroker.client.connecting import FAILURES, STREAM, most_telling
from nsbroker.client.requests import Request, Where
from nsbroker.client.wire import Wire, connect_failed

T = TypeVar("T")
R = TypeVar("R")
# A method of the front is called `socket`, too.
Socket = socket.socket


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
        raise connect_failed(path, error) from error
    except BaseException:
        sock.close()
        raise


class Broker(AwaitedBroker):
    """A connection to the broker, for tasks of trio."""

    _closed_meanwhile = trio.ClosedResourceError

    def __init__(self, sock: socket.socket, path: Path) -> None:
        """Use `connect`.  Takes `sock`, non-blocking and connected to `path`."""
        self._path = path
        super().__init__(Wire(sock), trio.Lock())

    async def socket(
        self,
        target: Where,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
        *,
        bind: tuple[str, int] | None = None,
    ) -> trio.socket.SocketType:
        """Have a socket made inside `target`, as socket.socket() with these arguments; it is the caller's, of trio's kind.

        `bind` (address, port) binds an inet or inet6 socket first, where a port below 1024 takes a permission of its own.
        Raises SocketFailed when the kernel makes no such socket, InvalidType, and the errors of `open`.
        """
        return trio.socket.from_stdlib_socket(await self._socket(target, family, type, proto, bind))

    async def create_connection(self, target: Where, address: tuple[str, int]) -> trio.SocketStream:
        """Connect to `address` (host, port) from inside `target`, as trio.open_tcp_stream() does here.

        A host's name is looked up here, not inside; each of its addresses is tried.  Raises OSError when nobody answers,
        and the errors of `socket`.
        """
        failures: list[Exception] = []
        for family, kind, protocol, _, place in await trio.socket.getaddrinfo(*address, type=STREAM):
            sock = None
            try:
                sock = await self.socket(target, family, kind, protocol)
                await sock.connect(place)
            except BaseException as error:
                if sock is not None:
                    sock.close()
                if not isinstance(error, FAILURES):
                    raise
                failures.append(error)
            else:
                return trio.SocketStream(sock)
        raise most_telling(failures)

    async def _connect_again(self) -> None:
        self._wire.replace(await _connected(self._path))

    async def _another(self) -> "Broker":
        return Broker(await _connected(self._path), self._path)

    async def _send(self) -> None:
        while not await self._step(self._wire.send_some, trio.lowlevel.wait_writable):
            pass

    async def _receive(self, request: Request[T]) -> None:
        await trio.lowlevel.wait_readable(self._wire.sock)
        await self._step(lambda: self._wire.receive_some(request), trio.lowlevel.wait_readable)

    async def _step(self, step: Callable[[], R], wait: Callable[[Socket], Awaitable[None]]) -> R:
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
