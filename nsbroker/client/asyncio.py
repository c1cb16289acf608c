"""The asyncio front.

async with nsbroker.client.asyncio.connect() as broker:
    with await broker.open("pid:4711", "net") as ns:
        ...
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

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
            try:
                sock.connect(str(path))
                return sock
            except BlockingIOError:
                await asyncio.sleep(0.01)
    except OSError as error:
        sock.close()
        raise connect_failed(path, error) from error
    except BaseException:
        sock.close()
        raise


class _ClosedMeanwhile(Exception):
    """Another task closed the connection that this one waits on."""


class Broker(AwaitedBroker):
    """A connection to the broker, for tasks of asyncio."""

    _closed_meanwhile = _ClosedMeanwhile

    def __init__(self, sock: socket.socket, path: Path) -> None:
        """Use `connect`.  Takes `sock`, non-blocking and connected to `path`."""
        self._path = path
        super().__init__(Wire(sock), asyncio.Lock())
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None

    async def socket(
        self,
        target: Where,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
        *,
        bind: tuple[str, int] | None = None,
    ) -> Socket:
        """Have a socket made inside `target`, as socket.socket() with these arguments; it is the caller's, non-blocking.

        `bind` (address, port) binds an inet or inet6 socket first, where a port below 1024 takes a permission of its own.
        Raises SocketFailed when the kernel makes no such socket, InvalidType, and the errors of `open`.
        """
        return await self._socket(target, family, type, proto, bind)

    async def create_connection(self, target: Where, address: tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to `address` (host, port) from inside `target`, as asyncio.open_connection() does here.

        A host's name is looked up here, not inside; each of its addresses is tried.  Raises OSError when nobody answers,
        and the errors of `socket`.
        """
        failures: list[Exception] = []
        for family, kind, protocol, _, place in await self._loop.getaddrinfo(*address, type=STREAM):
            sock = None
            try:
                sock = await self.socket(target, family, kind, protocol)
                await self._loop.sock_connect(sock, place)
                return await asyncio.open_connection(sock=sock)
            except BaseException as error:
                if sock is not None:
                    sock.close()
                if not isinstance(error, FAILURES):
                    raise
                failures.append(error)
        raise most_telling(failures)

    async def _connect_again(self) -> None:
        self._wire.replace(await _connected(self._path))

    async def _another(self) -> "Broker":
        return Broker(await _connected(self._path), self._path)

    async def _send(self) -> None:
        loop = self._loop
        while not await self._step(self._wire.send_some, loop.add_writer, loop.remove_writer):
            pass

    async def _receive(self, request: Request[T]) -> None:
        loop = self._loop
        await self._step(lambda: self._wire.receive_some(request), loop.add_reader, loop.remove_reader)

    async def _step(self, step: Callable[[], R], add: Callable[..., object], remove: Callable[[int], object]) -> R:
        while True:
            try:
                return step()
            except BlockingIOError:
                self._waiting = self._loop.create_future()
                number = self._wire.sock.fileno()
                add(number, _wake, self._waiting)
                try:
                    await self._waiting
                finally:
                    self._waiting = None
                    remove(number)

    def close(self) -> None:
        """End the connection.  Twice is harmless; handles that were opened stay open."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(_ClosedMeanwhile())
        number = self._wire.sock.fileno()
        if number >= 0:
            self._loop.remove_reader(number)
            self._loop.remove_writer(number)
        self._wire.close()


def _wake(waiting: "asyncio.Future[None]") -> None:
    # The loop may call once more before the descriptor is taken away from it.
    if not waiting.done():
        waiting.set_result(None)
