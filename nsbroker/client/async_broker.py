"""What the fronts of trio and asyncio have in common: the verbs, each a call that is awaited."""

import contextlib
import io
import os
import socket
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import ClassVar, Self, TypeVar

from nsbroker.client import requests
from nsbroker.client.forking import Forked
from nsbroker.client.transport import NotTaken, Wire
from nsbroker.errors import ConnectionLost
from nsbroker.linux.ancillary import close_and_clear
from nsbroker.model.description import NamespaceDescription
from nsbroker.model.identity import Expectation, NamespaceType
from nsbroker.namespace import Namespace
from nsbroker.protocol.messages import DeviceDescription, ExplainReply, HeldDescription, PeerDescription, Status, WatchReply
from nsbroker.varlink.connection import IncomingReply

T = TypeVar("T")
# A method is called `list`, too.
List = list


class AwaitedBroker(Forked):
    """A connection to the broker.  Tasks may share it: calls go one after the other.  A child that is forked has a connection
    of its own.

    A call that is cancelled ends the connection, since its answer may be under way.  A connection that ended between two
    calls, so or because the broker was restarted, is made anew by itself.
    """

    _closed_meanwhile: ClassVar[type[Exception]]
    """What tells a task that another one has closed the connection it waits on."""

    def __init__(self, sock: socket.socket, path: Path, timeout: float | None) -> None:
        self._path = path
        self._timeout = timeout
        self._wire = Wire(sock)
        self._lock = self._new_lock()
        super().__init__()

    async def open(self, target: requests.Where, type: str, *, expect: Expectation | None = None) -> Namespace:
        """Open one namespace of `target`; the handle is the caller's.  Raises the errors of `nsbroker.errors`; TargetChanged
        when it is not what `expect` says.
        """
        return (await self._call(requests.open_namespaces(target, [type], expect))).popitem()[1]

    async def open_all(
        self, target: requests.Where, types: Iterable[str] | None = None, *, expect: Expectation | None = None
    ) -> dict[NamespaceType, Namespace]:
        """Open several namespaces of `target` (None: all it has), all or none; the handles are the caller's."""
        return await self._call(requests.open_namespaces(target, types, expect))

    async def explain(
        self,
        target: requests.Where,
        types: Iterable[str] | None = None,
        *,
        sockets: Iterable[str] | None = None,
        devices: Iterable[str] | None = None,
    ) -> ExplainReply:
        """What the policy says to opening these types of namespaces, kinds of sockets (such as inet:stream) and devices;
        without any, to `open_all`.
        """
        return await self._call(requests.explain(target, types, sockets, devices))

    async def list(self, types: Iterable[str] | None = None, *, target: requests.Where | None = None) -> List[NamespaceDescription]:
        """The namespaces that this process may have opened, of `types` (None: all), of `target` alone if one is given.

        What each description counts and names are processes and files by which this process may have it opened.
        """
        return await self._call(requests.list_namespaces(types, target))

    def watch(self, types: Iterable[str] | None = None) -> "AwaitedWatch":
        """What becomes of the namespaces (of `types`, None: all) that this process may have opened, on a connection of its own:

            async with broker.watch(["net"]) as events:
                async for event in events: ...

        First comes all that there is (`present`), then `ready`, then what changes.  Raises the errors of `list`.
        """
        return AwaitedWatch(self, requests.watch(types))

    async def containers(self) -> requests.ContainerList:
        """The containers of which this process may have something opened, and the engines that could not be asked."""
        return await self._call(requests.list_containers())

    async def _socket(
        self, target: requests.Where, family: int, type: int, proto: int, bind: tuple[str, int] | None
    ) -> socket.socket:
        """A socket in the network namespace of `target`, non-blocking; the caller's."""
        sock = await self._call(requests.open_socket(target, family, type, proto, bind))
        sock.setblocking(False)
        return sock

    async def devices(self, target: requests.Where) -> List[DeviceDescription]:
        """The character devices below the /dev of `target` that this process may have opened."""
        return await self._call(requests.list_devices(target))

    async def device(self, target: requests.Where, name: str, flags: int = os.O_RDONLY) -> io.FileIO:
        """Open a character device below the /dev of `target`, by its name there (null, net/tun); the file is the caller's.

        `flags` are os.O_RDONLY, O_WRONLY or O_RDWR, others are dropped.  Raises NoSuchDevice, and the errors of `open`.
        """
        return await self._call(requests.open_device(target, name, flags))

    async def create(self, types: Iterable[str], *, name: str | None = None) -> requests.Created:
        """Have new namespaces made; the handles are the caller's.  With `name` the broker holds them, too, until `release`.

        Raises NameTaken, QuotaExceeded, PermissionDenied.
        """
        return await self._call(requests.create(types, name))

    async def hold(self, target: requests.Where, name: str, types: Iterable[str] | None = None) -> bool:
        """Have namespaces of `target` (None: all it has) held under `name` until `release`; whether they outlive a restart
        of the broker.  Raises as `create`.
        """
        return await self._call(requests.hold(target, types, name))

    async def release(self, name: str) -> None:
        """Let go of what this user holds under `name`.  Raises PermissionDenied, NoSuchTarget."""
        await self._call(requests.release(name))

    async def held(self) -> List[HeldDescription]:
        """What this user holds, or may open of what others hold."""
        return await self._call(requests.list_held())

    async def who_am_i(self) -> PeerDescription:
        """Who the broker takes this process for."""
        return await self._call(requests.who_am_i())

    async def status(self) -> Status:
        """How the broker is doing."""
        return await self._call(requests.status())

    async def _call(self, request: requests.Request[T]) -> T:
        # Descriptors that come with the answer are in here until somebody has them, whatever happens.
        fds: list[int] = []
        try:
            async with self._lock:
                if self._wire.is_over(request):
                    await self._connect_again()
                try:
                    replies = await self._exchange(request, fds)
                except NotTaken:
                    await self._connect_again()
                    replies = await self._exchange(request, fds)
            return requests.finish(request, replies)
        finally:
            close_and_clear(fds)

    async def _connect_again(self) -> None:
        self._wire.drop()
        self._wire.replace(await self._connected())

    async def _exchange(self, request: requests.Request[T], fds: List[int]) -> Sequence[IncomingReply]:
        wire = self._wire
        try:
            wire.start(request, fds)
            await self._send(request)
            while (replies := wire.replies(request)) is None:
                await self._receive(request)
        except BaseException as error:
            # Half a call or half an answer: nothing on this connection would be what it seems.
            wire.drop()
            if isinstance(error, self._closed_meanwhile):
                raise ConnectionLost(f"{request.what()}: the connection was closed meanwhile") from error
            raise
        return replies

    async def _send(self, request: requests.Request[T]) -> None:
        """Send the call that was started.  Raises Timeout."""
        with contextlib.suppress(BlockingIOError):
            if self._wire.send_some(request):
                return
        await self._in_time(request, lambda: self._send_rest(request))

    async def _send_rest(self, request: requests.Request[T]) -> None:
        sent = False
        while not sent:
            await self._writable()
            with contextlib.suppress(BlockingIOError):
                sent = self._wire.send_some(request)

    async def _receive(self, request: requests.Request[T]) -> None:
        """Receive until another reply is there.  Raises Timeout when that takes too long, however many bytes of it came."""
        await self._in_time(request, lambda: self._receive_rest(request))

    async def _receive_rest(self, request: requests.Request[T]) -> None:
        while not self._wire.ready:
            await self._readable()
            # Something else than what was waited for may have woken us.
            with contextlib.suppress(BlockingIOError):
                self._wire.receive_some(request)

    def after_fork(self) -> None:
        """Have the child connect anew, with its first call.  A task that held the lock will never run there."""
        self._lock = self._new_lock()
        self._wire.after_fork()

    @abstractmethod
    def _new_lock(self) -> AbstractAsyncContextManager[object]:
        """A lock that nobody holds."""

    @abstractmethod
    async def _connected(self) -> socket.socket:
        """Another connection to the same broker."""

    @abstractmethod
    async def _another(self) -> Self:
        """A front of its own, on another connection to the same broker."""

    @abstractmethod
    async def _in_time(self, request: requests.Request[T], step: Callable[[], Awaitable[None]]) -> None:
        """Run `step` to its end.  Raises Timeout when that takes longer than one step may."""

    @abstractmethod
    async def _readable(self) -> None:
        """Wait until the wire's socket is readable."""

    @abstractmethod
    async def _writable(self) -> None:
        """Wait until the wire's socket is writable."""

    @abstractmethod
    def close(self) -> None:
        """End the connection.  Twice is harmless; handles that were opened stay open."""


class AwaitedWatch(Forked):
    """A watch: an asynchronous context manager, and an asynchronous iterator of events that never ends by itself.

    It belongs to the process that began it: in a child that was forked it is over.
    """

    def __init__(self, broker: AwaitedBroker, request: requests.Request[None]) -> None:
        """Use `Broker.watch`.  Borrows `broker`; what it tells comes over a connection of its own."""
        self._original = broker
        self._request = request
        self._broker: AwaitedBroker | None = None
        self._fds: list[int] = []
        self._end = "is closed"
        super().__init__()

    async def __aenter__(self) -> Self:
        self._broker = broker = await self._original._another()
        self._begun = False
        try:
            broker._wire.start(self._request, self._fds)
            await broker._send(self._request)
        except BaseException:
            self.close()
            raise
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchReply:
        broker = self._broker
        if broker is None or broker._wire.closed:
            raise ConnectionLost(f"{self._request.what()}: this watch {self._end}")
        wire = broker._wire
        try:
            if self._begun and not wire.started and not wire.ready:
                # Nothing may happen for hours.
                await broker._readable()
        except broker._closed_meanwhile as error:
            raise ConnectionLost(f"{self._request.what()}: this watch was closed meanwhile") from error
        try:
            if not wire.ready:
                await broker._receive(self._request)
            reply = wire.next_reply()
        except BaseException as error:
            # What was received is perhaps lost: what follows would not be what it seems.
            self.close()
            if isinstance(error, broker._closed_meanwhile):
                raise ConnectionLost(f"{self._request.what()}: this watch was closed meanwhile") from error
            raise
        if reply is None:
            raise AssertionError("a reply was ready")
        self._begun = True
        if reply.last:
            self._end = "was ended by the broker"
            self.close()
        return requests.read_event(self._request, reply)

    def close(self) -> None:
        """End it.  Twice is harmless."""
        if self._broker is not None:
            self._broker.close()
        close_and_clear(self._fds)

    def after_fork(self) -> None:
        """End it in the child."""
        self._end = "belongs to the process that this one was forked from; begin another"
        if self._broker is not None:
            self._broker._wire.closed = True

    async def __aexit__(self, *_: object) -> None:
        self.close()
