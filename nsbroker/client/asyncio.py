"""The asyncio front.

async with nsbroker.client.asyncio.connect() as broker:
    with await broker.open("pid:4711", "net") as ns:
        ...
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from nsbroker.client.addresses import RETRY, STREAM, is_of_address, most_telling, queue_stays_full
from nsbroker.client.async_broker import AwaitedBroker
from nsbroker.client.requests import Request, Where
from nsbroker.client.transport import PATIENCE, checked_timeout, connect_failed
from nsbroker.errors import Timeout
from nsbroker.protocol.address import socket_path

T = TypeVar("T")
# A method of the front is called `socket`, too.
Socket = socket.socket


@contextlib.asynccontextmanager
async def connect(address: str | None = None, *, timeout: float | None = PATIENCE) -> AsyncIterator["Broker"]:
    """Connect to the broker at `address`, by default $NSBROKER_ADDRESS or the usual place.

    `timeout` in seconds is for each step: connecting, sending a call, each reply to it.  One that takes longer raises
    Timeout and ends the connection; None waits for ever.
    Raises ConnectionFailed, Timeout, and InvalidAddress for what is no address.
    """
    path, seconds = socket_path(address), checked_timeout(timeout)
    broker = Broker(await _connected(path, seconds), path, seconds)
    try:
        yield broker
    finally:
        broker.close()


async def _connected(path: Path, timeout: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        try:
            async with asyncio.timeout(timeout) as scope:
                while True:
                    try:
                        sock.connect(str(path))
                        return sock
                    except BlockingIOError:
                        # The listener has no room left, and does not say when it has.
                        await asyncio.sleep(RETRY)
        except TimeoutError as error:
            if timeout is None or not scope.expired():
                raise
            raise queue_stays_full(path, timeout) from error
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError) and not isinstance(error, Timeout):
            raise connect_failed(path, error) from error
        raise


class _ClosedMeanwhile(Exception):
    """Another task closed the connection that this one waits on."""


class Broker(AwaitedBroker):
    """A connection to the broker, for tasks of asyncio."""

    _closed_meanwhile = _ClosedMeanwhile

    def __init__(self, sock: Socket, path: Path, timeout: float | None) -> None:
        """Use `connect`.  Takes `sock`, connected to `path`."""
        super().__init__(sock, path, timeout)
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
        for family, kind, protocol, _, place in await asyncio.get_running_loop().getaddrinfo(*address, type=STREAM):
            sock = None
            try:
                sock = await self.socket(target, family, kind, protocol)
                await asyncio.get_running_loop().sock_connect(sock, place)
                return await asyncio.open_connection(sock=sock)
            except BaseException as error:
                if sock is not None:
                    sock.close()
                if not isinstance(error, Exception) or not is_of_address(error):
                    raise
                failures.append(error)
        raise most_telling(failures)

    def _new_lock(self) -> asyncio.Lock:
        return asyncio.Lock()

    async def _connected(self) -> Socket:
        return await _connected(self._path, self._timeout)

    async def _another(self) -> "Broker":
        return Broker(await self._connected(), self._path, self._timeout)

    async def _in_time(self, request: Request[T], step: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(self._timeout) as scope:
                await step()
        except TimeoutError as error:
            if self._timeout is None or not scope.expired():
                raise
            raise Timeout(request.what(), self._timeout) from error

    async def _readable(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._until(self._loop.add_reader, self._loop.remove_reader)

    async def _writable(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._until(self._loop.add_writer, self._loop.remove_writer)

    async def _until(self, add: Callable[..., object], remove: Callable[[int], object]) -> None:
        number = self._wire.sock.fileno()
        if number < 0:
            raise _ClosedMeanwhile
        self._waiting = self._loop.create_future()
        add(number, _wake, self._waiting)
        try:
            await self._waiting
        finally:
            self._waiting = None
            remove(number)

    def after_fork(self) -> None:
        """Have the child connect anew, and leave the parent's loop alone: the kernel's part of it is the same."""
        super().after_fork()
        self._waiting = None

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
