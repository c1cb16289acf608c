"""What the fronts of trio and asyncio have in common: the verbs, each a call that is awaited."""

import io
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import ClassVar, Self, TypeVar

from nsbroker.client import requests
from nsbroker.client.wire import NotTaken, Wire
from nsbroker.description import NamespaceDescription
from nsbroker.errors import ConnectionLost
from nsbroker.identity import Expectation, NamespaceType
from nsbroker.interface import DeviceDescription, ExplainReply, HeldDescription, PeerDescription, Status, WatchReply
from nsbroker.namespace import Namespace
from nsbroker.varlink.connection import IncomingReply

T = TypeVar("T")
# A method is called `list`, too.
List = list


class AwaitedBroker(ABC):
    """A connection to the broker.  Tasks may share it: calls go one after the other.

    A call that is cancelled ends the connection, since its answer may be under way.  A connection that ended between two
    calls, so or because the broker was restarted, is made anew by itself.
    """

    _closed_meanwhile: ClassVar[type[Exception]]
    """What tells a task that another one has closed the connection it waits on."""

    def __init__(self, wire: Wire, lock: AbstractAsyncContextManager[object]) -> None:
        self._wire = wire
        self._lock = lock

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
        wire = self._wire
        async with self._lock:
            if wire.is_over(request):
                await self._connect_again()
            try:
                replies = await self._exchange(request)
            except NotTaken:
                await self._connect_again()
                replies = await self._exchange(request)
        return requests.finish(request, replies)

    @abstractmethod
    async def _connect_again(self) -> None:
        """Replace the wire's socket with a new one."""

    async def _exchange(self, request: requests.Request[T]) -> Sequence[IncomingReply]:
        wire = self._wire
        try:
            wire.start(request)
            await self._send()
            while (replies := wire.replies()) is None:
                await self._receive(request)
        except BaseException as error:
            # Half a call or half an answer: nothing on this connection would be what it seems.
            wire.drop()
            if isinstance(error, self._closed_meanwhile):
                raise ConnectionLost(f"{request.what()}: the connection was closed meanwhile") from error
            raise
        return replies

    @abstractmethod
    async def _another(self) -> Self:
        """A connection to the same broker."""

    @abstractmethod
    async def _send(self) -> None:
        """Send the call that was started."""

    @abstractmethod
    async def _receive(self, request: requests.Request[T]) -> None:
        """Receive something."""

    @abstractmethod
    def close(self) -> None:
        """End the connection.  Twice is harmless; handles that were opened stay open."""


class AwaitedWatch:
    """A watch: an asynchronous context manager, and an asynchronous iterator of events that never ends by itself."""

    def __init__(self, broker: AwaitedBroker, request: requests.Request[None]) -> None:
        """Use `Broker.watch`.  Borrows `broker`; what it tells comes over a connection of its own."""
        self._original = broker
        self._request = request
        self._broker: AwaitedBroker | None = None

    async def __aenter__(self) -> Self:
        broker = await self._original._another()
        try:
            broker._wire.start(self._request)
            await broker._send()
        except BaseException:
            broker.close()
            raise
        self._broker = broker
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchReply:
        broker = self._broker
        if broker is None or broker._wire.closed:
            raise ConnectionLost(f"{self._request.what()}: this watch is closed")
        while (reply := broker._wire.next_reply()) is None:
            try:
                await broker._receive(self._request)
            except broker._closed_meanwhile as error:
                raise ConnectionLost(f"{self._request.what()}: this watch was closed meanwhile") from error
        return requests.read_event(self._request, reply)

    def close(self) -> None:
        """End it.  Twice is harmless."""
        if self._broker is not None:
            self._broker.close()

    async def __aexit__(self, *_: object) -> None:
        self.close()
