"""The trio front.

async with nsbroker.client.trio.connect() as broker:
    with await broker.open("pid:4711", "net") as ns:
        ...
"""

import contextlib
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import trio

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
        with trio.move_on_after(math.inf if timeout is None else timeout):
            while True:
                await trio.lowlevel.checkpoint()
                try:
                    sock.connect(str(path))
                    return sock
                except BlockingIOError:
                    # The listener has no room left, and does not say when it has.
                    await trio.sleep(RETRY)
        raise queue_stays_full(path, timeout or math.inf)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError) and not isinstance(error, Timeout):
            raise connect_failed(path, error) from error
        raise


class Broker(AwaitedBroker):
    """A connection to the broker, for tasks of trio.  Use `connect`."""

    _closed_meanwhile = trio.ClosedResourceError

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
                if not isinstance(error, Exception) or not is_of_address(error):
                    raise
                failures.append(error)
            else:
                return trio.SocketStream(sock)
        raise most_telling(failures)

    def _new_lock(self) -> trio.Lock:
        return trio.Lock()

    async def _connected(self) -> Socket:
        return await _connected(self._path, self._timeout)

    async def _another(self) -> "Broker":
        return Broker(await self._connected(), self._path, self._timeout)

    async def _in_time(self, request: Request[T], step: Callable[[], Awaitable[None]]) -> None:
        if self._timeout is None:
            return await step()
        with trio.move_on_after(self._timeout):
            return await step()
        raise Timeout(request.what(), self._timeout)

    async def _readable(self) -> None:
        await trio.lowlevel.wait_readable(self._wire.sock)

    async def _writable(self) -> None:
        await trio.lowlevel.wait_writable(self._wire.sock)

    def close(self) -> None:
        """End the connection.  Twice is harmless; handles that were opened stay open."""
        if self._wire.sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._wire.sock)
        self._wire.close()
