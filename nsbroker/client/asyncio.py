"""The asyncio client.

async with nsbroker.client.asyncio.connect() as broker:
    with await broker.open("pid:4711", "net") as ns:
        ...
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

from nsbroker.client.addresses import STREAM, InetAddress
from nsbroker.client.async_broker import AsyncBroker, connection
from nsbroker.client.lookup import Resolve
from nsbroker.client.pending import PendingCall
from nsbroker.client.requests import TargetLike
from nsbroker.client.transport import DEFAULT_TIMEOUT
from nsbroker.errors import Timeout

# Inside the class, `socket` is a method.
Socket = socket.socket


def connect(
    address: str | None = None, *, fd: int | None = None, timeout: float | None = DEFAULT_TIMEOUT
) -> AbstractAsyncContextManager["Broker"]:
    """Connect to the broker.  `nsbroker.client.async_broker.connection` tells about the arguments and the errors."""
    return connection(Broker, address, fd, timeout)


class Broker(AsyncBroker):
    """A connection to the broker, for asyncio tasks.  Use `connect`."""

    library = "asyncio"

    def __init__(self, sock: Socket, path: Path | None, timeout: float | None) -> None:
        """Use `connect`.  Takes `sock`, which is connected to `path` (None: it cannot be connected again)."""
        super().__init__(sock, path, timeout)
        # What the leader waits for: the loop, the number of the connection there, and what wakes the leader.
        self._waiting: tuple[asyncio.AbstractEventLoop, int, asyncio.Future[None]] | None = None

    async def socket(
        self,
        target: TargetLike,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
        *,
        bind: tuple[str, int] | None = None,
        mark: int | None = None,
    ) -> Socket:
        """Open a socket in the network namespace of `target`; it is non-blocking, and the caller's to close.

        Arguments and errors are those of `socket` in `nsbroker.client.blocking`.
        """
        return await self._open_socket(target, family, type, proto, bind, mark)

    async def create_connection(
        self, target: TargetLike, address: tuple[str, int], *, resolve: Resolve = "here"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to `address` (host, port) from inside `target`, as asyncio.open_connection() does from this process.

        A host name is looked up in this process or, with resolve="inside", as the target does, and each of its addresses is
        tried: `create_connection` of the blocking client tells more.  Raises OSError if no connection can be made, LookupFailed,
        and the errors of `socket`.
        """
        sock = await self._connect_inside(target, address, resolve)
        try:
            return await asyncio.open_connection(sock=sock)
        except BaseException:
            sock.close()
            raise

    def _new_lock(self) -> asyncio.Lock:
        return asyncio.Lock()

    @classmethod
    async def _run_with_timeout(cls, what: str, timeout: float | None, step: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(timeout) as scope:
                await step()
        except TimeoutError as error:
            if timeout is None or not scope.expired():
                raise
            raise Timeout(what, timeout) from error

    @staticmethod
    async def _sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _look_up(self, address: tuple[str, int]) -> Sequence[InetAddress]:
        addresses = await asyncio.get_running_loop().getaddrinfo(*address, type=STREAM)
        return [InetAddress(family, kind, protocol, sockaddr) for family, kind, protocol, _, sockaddr in addresses]

    async def _connect_socket(self, sock: Socket, sockaddr: tuple[Any, ...]) -> None:
        await asyncio.get_running_loop().sock_connect(sock, sockaddr)

    async def _receive_bytes(self, sock: Socket, size: int) -> bytes:
        # sock_recv() lets other tasks and timeouts run only if there is nothing to receive, so a flood would hold them up.
        await asyncio.sleep(0)
        return await asyncio.get_running_loop().sock_recv(sock, size)

    async def _park(self, call: PendingCall[Any]) -> None:
        if call.wake is not None:
            raise RuntimeError(f"{call.request.what()}: another task waits for the same reply")
        woken = asyncio.get_running_loop().create_future()
        call.wake = partial(_wake, woken)
        try:
            await woken
        finally:
            call.wake = None

    async def _wait_ready(self, timeout: float | None) -> None:
        loop, number = asyncio.get_running_loop(), self._transport.sock.fileno()
        if number < 0:
            return
        woken: asyncio.Future[None] = loop.create_future()
        self._waiting = loop, number, woken
        timer = None if timeout is None else loop.call_later(max(0, timeout), _wake, woken)
        try:
            loop.add_reader(number, _wake, woken)
            if self._transport.wants_to_send:
                loop.add_writer(number, _wake, woken)
            await woken
        finally:
            self._stop_waiting()
            if timer is not None:
                timer.cancel()

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            (loop, number, woken), self._waiting = self._waiting, None
            loop.remove_reader(number)
            loop.remove_writer(number)
            _wake(woken)

    def after_fork(self) -> None:
        """Make the child connect again, without changing the event loop: parent and child share its epoll instance."""
        super().after_fork()
        self._waiting = None


def _wake(waiting: "asyncio.Future[None]") -> None:
    # The loop may call this once more before the descriptor is removed from it.
    if not waiting.done():
        waiting.set_result(None)
