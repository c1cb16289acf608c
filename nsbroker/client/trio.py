"""The trio client.

async with nsbroker.client.trio.connect() as broker:
    with await broker.open("pid:4711", "net") as ns:
        ...
"""

import contextlib
import math
import select
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import trio

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
    """A connection to the broker, for trio tasks.  Use `connect`."""

    library = "trio"

    _both = -1
    """The epoll instance with which the leader waits for room as well as for data, or −1."""

    async def socket(
        self,
        target: TargetLike,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
        *,
        bind: tuple[str, int] | None = None,
        mark: int | None = None,
    ) -> trio.socket.SocketType:
        """Open a socket in the network namespace of `target`; it is a trio socket, and the caller's to close.

        Arguments and errors are those of `socket` in `nsbroker.client.blocking`.
        """
        return trio.socket.from_stdlib_socket(await self._open_socket(target, family, type, proto, bind, mark))

    async def create_connection(
        self, target: TargetLike, address: tuple[str, int], *, resolve: Resolve = "here"
    ) -> trio.SocketStream:
        """Connect to `address` (host, port) from inside `target`, as trio.open_tcp_stream() does from this process.

        A host name is looked up in this process or, with resolve="inside", as the target does, and each of its addresses is
        tried: `create_connection` of the blocking client tells more.  Raises OSError if no connection can be made, LookupFailed,
        and the errors of `socket`.
        """
        return trio.SocketStream(trio.socket.from_stdlib_socket(await self._connect_inside(target, address, resolve)))

    def _new_lock(self) -> trio.Lock:
        return trio.Lock()

    @classmethod
    async def _run_with_timeout(cls, what: str, timeout: float | None, step: Callable[[], Awaitable[None]]) -> None:
        if timeout is None:
            return await step()
        with trio.move_on_after(timeout):
            return await step()
        raise Timeout(what, timeout)

    @staticmethod
    async def _sleep(seconds: float) -> None:
        await trio.sleep(seconds)

    async def _look_up(self, address: tuple[str, int]) -> Sequence[InetAddress]:
        addresses = await trio.socket.getaddrinfo(*address, type=STREAM)
        return [InetAddress(family, kind, protocol, sockaddr) for family, kind, protocol, _, sockaddr in addresses]

    async def _connect_socket(self, sock: Socket, sockaddr: tuple[Any, ...]) -> None:
        await trio.socket.from_stdlib_socket(sock).connect(sockaddr)

    async def _receive_bytes(self, sock: Socket, size: int) -> bytes:
        return await trio.socket.from_stdlib_socket(sock).recv(size)

    async def _park(self, call: PendingCall[Any]) -> None:
        if call.wake is not None:
            raise RuntimeError(f"{call.request.what()}: another task waits for the same reply")
        call.wake = partial(trio.lowlevel.reschedule, trio.lowlevel.current_task())

        def abort(_: object) -> trio.lowlevel.Abort:
            call.wake = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def _wait_ready(self, timeout: float | None) -> None:
        sock, seconds = self._transport.sock, math.inf if timeout is None else max(0, timeout)
        try:
            with trio.move_on_after(seconds):
                if self._transport.wants_to_send:
                    await self._wait_both(sock)
                else:
                    await trio.lowlevel.wait_readable(sock)
        except trio.ClosedResourceError:
            return

    async def _wait_both(self, sock: Socket) -> None:
        # A task can wait for one event only.  An epoll instance makes one of two.
        with select.epoll() as both:
            both.register(sock, select.EPOLLIN | select.EPOLLOUT)
            self._both = both.fileno()
            try:
                await trio.lowlevel.wait_readable(both)
            finally:
                self._both = -1

    def _stop_waiting(self) -> None:
        for waited_for in (self._both, self._transport.sock.fileno()):
            # trio raises this if this task itself still counts as waiting, after a signal handler interrupted it.
            with contextlib.suppress(trio.ClosedResourceError):
                if waited_for >= 0:
                    trio.lowlevel.notify_closing(waited_for)
