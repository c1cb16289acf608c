"""The common base of the trio and asyncio clients: it makes calls, and subclasses wait for the connection."""

import contextlib
import socket
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from nsbroker.client import file_requests, requests
from nsbroker.client.addresses import RETRY, InetAddress, concerns_one_address, inet_addresses, most_informative
from nsbroker.client.async_methods import AsyncMethods
from nsbroker.client.connecting import check_no_address, check_timeout, connect_failed, require_path, take_connection
from nsbroker.client.forking import Forked
from nsbroker.client.lookup import Resolve, is_inside, look_up_async
from nsbroker.client.pending import PendingCall
from nsbroker.client.transport import Transport
from nsbroker.errors import Timeout
from nsbroker.protocol.address import socket_path

T = TypeVar("T")
B = TypeVar("B", bound="AsyncBroker")


@contextlib.asynccontextmanager
async def connection(client: type[B], address: str | None, fd: int | None, timeout: float | None) -> AsyncIterator[B]:
    """Connect a `client` to the broker at `address` (default: $NSBROKER_ADDRESS, or unix:/run/nsbroker/io.nsbroker.Broker).

    With `fd`, use that descriptor instead: a connection to the broker that this process inherited or received.  It is taken
    when the context is entered, and set close-on-exec; nobody else may use it any longer.  For the broker, the caller still is
    the process that connected.  Such a client has only this connection: once it has ended, and in a forked child, calls raise
    ConnectionLost.

    `timeout` is in seconds, for each step: connecting, sending a call, receiving each reply.  A step that takes longer raises
    Timeout and closes the connection.  None means no limit.

    Raises ConnectionFailed, Timeout, InvalidAddress if `address` is not the address of a broker, and ValueError for both an
    address and a descriptor (which is not taken then).
    """
    seconds = check_timeout(timeout)
    if fd is not None:
        check_no_address(address)
        broker = client(take_connection(fd), None, seconds)
    else:
        path = socket_path(address)
        broker = client(await client._connect(path, seconds), path, seconds)
    try:
        yield broker
    finally:
        broker.close()


class AsyncBroker(AsyncMethods, Forked):
    """A connection to the broker.  Tasks may share it: their calls are under way at once, and answered in their order.

    A forked child uses a connection of its own.  A call that is cancelled is still answered: later calls receive the reply
    and close its descriptors.  After a restart of the broker, the next call connects again.
    """

    library: ClassVar[str]
    """The name of the library whose tasks can use it."""

    def __init__(self, sock: socket.socket, path: Path | None, timeout: float | None) -> None:
        """Use `connect`.  Takes `sock`, which is connected to `path` (None: it cannot be connected again)."""
        self._path = path
        self._timeout = timeout
        self._transport = Transport(sock, self._stop_waiting)
        # Only the task that connects again holds the lock.
        self._lock = self._new_lock()
        self._is_led = False
        super().__init__()

    async def _open_socket(
        self,
        target: requests.TargetLike,
        family: int,
        type: int,
        proto: int,
        bind: tuple[str, int] | None = None,
        mark: int | None = None,
    ) -> socket.socket:
        """Open a socket in the network namespace of `target`; it is non-blocking, and the caller's to close."""
        sock = await self._call(requests.open_socket(target, family, type, proto, bind, mark))
        sock.setblocking(False)
        return sock

    async def _connect_inside(self, target: requests.TargetLike, address: tuple[str, int], resolve: Resolve) -> socket.socket:
        """Open a socket (the caller's to close) that is connected to `address` from inside `target`.

        `create_connection` of the blocking client tells about `resolve`.  Each address of the host name is tried.  Raises OSError
        if no connection can be made, and the errors of `socket`.
        """
        failures: list[Exception] = []
        addresses = await (self._look_up_inside(target, address) if is_inside(resolve) else self._look_up(address))
        for family, kind, protocol, sockaddr in addresses:
            sock = None
            try:
                sock = await self._open_socket(target, family, kind, protocol)
                await self._connect_socket(sock, sockaddr)
                return sock
            except BaseException as error:
                if sock is not None:
                    sock.close()
                if not isinstance(error, Exception) or not concerns_one_address(error):
                    raise
                failures.append(error)
        raise most_informative(failures)

    async def _look_up_inside(self, where: requests.TargetLike, address: tuple[str, int]) -> Sequence[InetAddress]:
        """Look up the addresses of a stream server as the target does.  Raises LookupFailed."""
        target, (host, port) = requests.parse_target(where), address

        async def read(name: str) -> bytes:
            with await self.file(target, name) as file:
                return file_requests.read_configuration(file)

        return inet_addresses(await look_up_async(target, host, read, _Inside(self, target)), port)

    @classmethod
    async def _connect(cls, path: Path, timeout: float | None) -> socket.socket:
        """Return a socket (the caller's to close) that is connected to the broker at `path`.  Raises ConnectionFailed, Timeout."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

        async def step() -> None:
            await cls._sleep(0)
            while not _try_connect(sock, path):
                # The queue of the listener is full, and the kernel has no event for when there is room again.
                await cls._sleep(RETRY)

        try:
            await cls._run_with_timeout(f"connect to the broker at {path}", timeout, step)
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError) and not isinstance(error, Timeout):
                raise connect_failed(path, error) from error
            raise
        return sock

    async def _open_another(self, request: requests.Request[T]) -> Self:
        path = require_path(self._path, request)
        another = type(self)(await self._connect(path, self._timeout), path, self._timeout)
        try:
            await another._restrict_again(self._transport.restrictions)
        except BaseException:
            another.close()
            raise
        return another

    async def _begin(self, call: PendingCall[Any]) -> None:
        transport = self._transport
        if not self._is_led:
            # What nobody waits for any longer may be overdue.
            transport.end_if_overdue(self._timeout)
        if transport.is_over(call.request):
            async with self._lock:
                if transport.is_over(call.request):
                    await self._connect_again(call.request)
        transport.start(call)

    async def _connect_again(self, request: requests.Request[T]) -> None:
        path = require_path(self._path, request)
        self._transport.drop()
        self._transport.replace(await self._connect(path, self._timeout))
        await self._restrict_again(self._transport.restrictions)

    async def _restrict_again(self, restrictions: Sequence[requests.Request[None]]) -> None:
        """Restrict a new connection, before anything else is sent.  If that fails, the connection is not used."""
        try:
            for restriction in list(restrictions):
                call = PendingCall(restriction)
                self._transport.start(call)
                await self._settle(call)
                self._result(call)
            self._transport.restricted = True
        except BaseException:
            self._transport.drop()
            raise

    async def _settle(self, call: PendingCall[Any]) -> None:
        """Wait until a call is settled.  One of the tasks that wait, the leader, sends and receives for all of them."""
        try:
            while not call.settled:
                if self._is_led:
                    await self._park(call)
                else:
                    await self._lead(call)
        finally:
            # The leader is done, or this task was woken to lead, and is cancelled.  The newest call is answered last, so
            # whoever waits for it can lead for the longest time.
            if not self._is_led and (newest := self._transport.newest_parked()) is not None:
                newest.wake_up()

    async def _lead(self, call: PendingCall[Any]) -> None:
        transport = self._transport
        self._is_led = True
        try:
            while not call.settled:
                await self._wait_ready(transport.seconds_left(self._timeout))
                transport.advance_in_time(call, self._timeout)
        finally:
            self._is_led = False

    async def detach(self) -> int:
        """Give the connection to the caller, as its descriptor, and close the client.  Another process may go on with it.

        The descriptor is the caller's to close.  It is close-on-exec, and non-blocking in all processes that have it: a program
        that does not expect EAGAIN clears O_NONBLOCK first (fcntl(2)).  Raises ConnectionLost if the connection has ended.
        """
        while self._transport.busy:
            # Replies come in order, so nothing that was asked before is under way after this.
            await self._call(requests.who_am_i())
        return self._transport.detach()

    def after_fork(self) -> None:
        """Make the child connect again with its first call.  A task that held the lock never runs there, so the lock is new."""
        self._lock = self._new_lock()
        self._is_led = False
        self._transport.after_fork()

    @abstractmethod
    def _new_lock(self) -> AbstractAsyncContextManager[object]:
        """Return a new lock."""

    @classmethod
    @abstractmethod
    async def _run_with_timeout(cls, what: str, timeout: float | None, step: Callable[[], Awaitable[None]]) -> None:
        """Run `step`.  Raises Timeout, with `what` in its text, if it takes longer than `timeout` seconds (None: no limit)."""

    @staticmethod
    @abstractmethod
    async def _sleep(seconds: float) -> None:
        """Sleep for `seconds`."""

    @abstractmethod
    async def _look_up(self, address: tuple[str, int]) -> Sequence[InetAddress]:
        """Look up the addresses of a stream server, in the order in which to try them."""

    @abstractmethod
    async def _connect_socket(self, sock: socket.socket, sockaddr: tuple[Any, ...]) -> None:
        """Connect `sock` (borrowed, non-blocking) to the address `sockaddr`."""

    @abstractmethod
    async def _receive_bytes(self, sock: socket.socket, size: int) -> bytes:
        """Receive at most `size` bytes from `sock` (borrowed, non-blocking).  Lets other tasks run first."""

    @abstractmethod
    async def _park(self, call: PendingCall[Any]) -> None:
        """Wait until `call.wake` is called.  Raises RuntimeError if another task waits for the same call."""

    @abstractmethod
    async def _wait_ready(self, timeout: float | None) -> None:
        """Wait until the connection is readable, or if it has something to send, writable.

        Returns also after `timeout` seconds (None: no limit), and when the connection is closed.
        """

    @abstractmethod
    def _stop_waiting(self) -> None:
        """Make `_wait_ready` return, because the connection will be closed."""

    def close(self) -> None:
        """Close the connection.  Opened handles stay open.  Closing twice does nothing."""
        self._transport.close()
        self._transport.fail_closed()


def _try_connect(sock: socket.socket, path: Path) -> bool:
    try:
        sock.connect(str(path))
    except BlockingIOError:
        return False
    return True


class _Inside:
    """The network of a target, in which its name servers are asked."""

    def __init__(self, broker: AsyncBroker, target: requests.TargetLike) -> None:
        self._target = target
        self.library = broker.library
        self.connect = broker._connect_socket
        self.receive = broker._receive_bytes
        self._broker = broker

    async def open_socket(self, family: int, kind: int) -> socket.socket:
        return await self._broker._open_socket(self._target, family, kind, 0)

    async def run(self, timeout: float, step: Callable[[], Awaitable[None]]) -> None:
        await self._broker._run_with_timeout("ask a name server", timeout, step)
