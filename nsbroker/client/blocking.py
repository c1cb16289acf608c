"""The blocking front: for scripts and threads."""

import io
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from socket import getaddrinfo
from typing import Self, TypeVar

from nsbroker.address import socket_path
from nsbroker.client import requests
from nsbroker.client.connecting import FAILURES, STREAM, most_telling
from nsbroker.client.wire import NotTaken, Wire, connect_failed
from nsbroker.description import NamespaceDescription
from nsbroker.errors import ConnectionLost
from nsbroker.identity import Expectation, NamespaceType
from nsbroker.interface import DeviceDescription, ExplainReply, HeldDescription, PeerDescription, Status, WatchReply
from nsbroker.namespace import Namespace
from nsbroker.varlink.connection import IncomingReply

T = TypeVar("T")
# A method is called `list`, too.
List = list
# A method of the front is called `socket`, too.
Socket = socket.socket


def connect(address: str | None = None, *, timeout: float | None = None) -> "Broker":
    """Connect to the broker at `address`, by default $NSBROKER_ADDRESS or the usual place.

    `timeout` in seconds is for each step of a call; one that takes longer raises ConnectionLost and ends the connection.
    Raises ConnectionFailed, and InvalidAddress for what is no address.
    """
    path = socket_path(address)
    return Broker(lambda: _connected(path, timeout))


def _connected(path: Path, timeout: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    end = None if timeout is None else time.monotonic() + timeout
    try:
        sock.settimeout(timeout)
        while True:
            try:
                sock.connect(str(path))
                return sock
            except BlockingIOError:
                # With a timeout, a listener that has no room left is an error at once.
                if end is None or time.monotonic() > end:
                    raise
                time.sleep(0.01)
    except OSError as error:
        sock.close()
        raise connect_failed(path, error) from error
    except BaseException:
        sock.close()
        raise


class Broker:
    """A connection to the broker.  One call at a time; threads may share it.

    A connection that ended between two calls, because the broker was restarted, is made anew by itself.
    """

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        """Use `nsbroker.connect`.  `connect` gives connected sockets, which this takes."""
        self._connect = connect
        self._wire = Wire(connect())
        self._lock = threading.Lock()

    def open(self, target: requests.Where, type: str, *, expect: Expectation | None = None) -> Namespace:
        """Open one namespace of `target`; the handle is the caller's.  Raises the errors of `nsbroker.errors`; TargetChanged
        when it is not what `expect` says.
        """
        return self._call(requests.open_namespaces(target, [type], expect)).popitem()[1]

    def open_all(
        self, target: requests.Where, types: Iterable[str] | None = None, *, expect: Expectation | None = None
    ) -> dict[NamespaceType, Namespace]:
        """Open several namespaces of `target` (None: all it has), all or none; the handles are the caller's."""
        return self._call(requests.open_namespaces(target, types, expect))

    def explain(
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
        return self._call(requests.explain(target, types, sockets, devices))

    def list(self, types: Iterable[str] | None = None, *, target: requests.Where | None = None) -> List[NamespaceDescription]:
        """The namespaces that this process may have opened, of `types` (None: all), of `target` alone if one is given.

        What each description counts and names are processes and files by which this process may have it opened.
        """
        return self._call(requests.list_namespaces(types, target))

    def watch(self, types: Iterable[str] | None = None) -> "Watch":
        """What becomes of the namespaces (of `types`, None: all) that this process may have opened, on a connection of its own:

            with broker.watch(["net"]) as events:
                for event in events: ...

        First comes all that there is (`present`), then `ready`, then what changes.  Raises the errors of `list`.
        """
        return Watch(self._connect, requests.watch(types))

    def containers(self) -> requests.ContainerList:
        """The containers of which this process may have something opened, and the engines that could not be asked."""
        return self._call(requests.list_containers())

    def socket(
        self,
        target: requests.Where,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
        *,
        bind: tuple[str, int] | None = None,
    ) -> Socket:
        """Have a socket made inside `target`, as socket.socket() with these arguments; it is the caller's.

        `bind` (address, port) binds an inet or inet6 socket first, where a port below 1024 takes a permission of its own.
        Raises SocketFailed when the kernel makes no such socket, InvalidType, and the errors of `open`.
        """
        return self._call(requests.open_socket(target, family, type, proto, bind))

    def create_connection(self, target: requests.Where, address: tuple[str, int], timeout: float | None = None) -> Socket:
        """Connect to `address` (host, port) from inside `target`, as socket.create_connection(); `timeout` stays the socket's.

        A host's name is looked up here, not inside; each of its addresses is tried.  Raises OSError when nobody answers,
        and the errors of `socket`.
        """
        failures: list[Exception] = []
        for family, kind, protocol, _, place in getaddrinfo(*address, type=STREAM):
            sock = None
            try:
                sock = self.socket(target, family, kind, protocol)
                sock.settimeout(timeout)
                sock.connect(place)
            except BaseException as error:
                if sock is not None:
                    sock.close()
                if not isinstance(error, FAILURES):
                    raise
                failures.append(error)
            else:
                return sock
        raise most_telling(failures)

    def devices(self, target: requests.Where) -> List[DeviceDescription]:
        """The character devices below the /dev of `target` that this process may have opened."""
        return self._call(requests.list_devices(target))

    def device(self, target: requests.Where, name: str, flags: int = os.O_RDONLY) -> io.FileIO:
        """Open a character device below the /dev of `target`, by its name there (null, net/tun); the file is the caller's.

        `flags` are os.O_RDONLY, O_WRONLY or O_RDWR, others are dropped.  Raises NoSuchDevice, and the errors of `open`.
        """
        return self._call(requests.open_device(target, name, flags))

    def create(self, types: Iterable[str], *, name: str | None = None) -> requests.Created:
        """Have new namespaces made; the handles are the caller's.  With `name` the broker holds them, too, until `release`.

        Raises NameTaken, QuotaExceeded, PermissionDenied.
        """
        return self._call(requests.create(types, name))

    def hold(self, target: requests.Where, name: str, types: Iterable[str] | None = None) -> bool:
        """Have namespaces of `target` (None: all it has) held under `name` until `release`; whether they outlive a restart
        of the broker.  Raises as `create`.
        """
        return self._call(requests.hold(target, types, name))

    def release(self, name: str) -> None:
        """Let go of what this user holds under `name`.  Raises PermissionDenied, NoSuchTarget."""
        self._call(requests.release(name))

    def held(self) -> List[HeldDescription]:
        """What this user holds, or may open of what others hold."""
        return self._call(requests.list_held())

    def who_am_i(self) -> PeerDescription:
        """Who the broker takes this process for."""
        return self._call(requests.who_am_i())

    def status(self) -> Status:
        """How the broker is doing."""
        return self._call(requests.status())

    def _call(self, request: requests.Request[T]) -> T:
        wire = self._wire
        with self._lock:
            if wire.is_over(request):
                wire.replace(self._connect())
            try:
                replies = self._exchange(request)
            except NotTaken:
                wire.replace(self._connect())
                replies = self._exchange(request)
        return requests.finish(request, replies)

    def _exchange(self, request: requests.Request[T]) -> Sequence[IncomingReply]:
        wire = self._wire
        wire.start(request)
        try:
            while not wire.send_some():
                pass
            while (replies := wire.replies()) is None:
                wire.receive_some(request)
        except BaseException as error:
            # Half a call or half an answer: nothing on this connection would be what it seems.
            wire.drop()
            if isinstance(error, TimeoutError):
                raise ConnectionLost(f"{request.what()}: no answer in time; try again") from error
            raise
        return replies

    def close(self) -> None:
        """End the connection.  Twice is harmless; handles that were opened stay open."""
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Watch:
    """A watch: a context manager, and an iterator of events that never ends by itself.  `close` from another thread ends it,
    with ConnectionLost for who waits.
    """

    def __init__(self, connect: Callable[[], socket.socket], request: requests.Request[None]) -> None:
        """Use `Broker.watch`."""
        self._connect = connect
        self._request = request
        self._wire: Wire | None = None

    def __enter__(self) -> Self:
        sock = self._connect()
        # Nothing may happen for hours.
        sock.settimeout(None)
        self._wire = Wire(sock)
        try:
            self._wire.start(self._request)
            while not self._wire.send_some():
                pass
        except BaseException:
            self._wire.close()
            raise
        return self

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> WatchReply:
        if self._wire is None or self._wire.closed:
            raise ConnectionLost(f"{self._request.what()}: this watch is closed")
        while (reply := self._wire.next_reply()) is None:
            try:
                self._wire.receive_some(self._request)
            except OSError as error:
                if not self._wire.closed:
                    raise
                raise ConnectionLost(f"{self._request.what()}: this watch was closed meanwhile") from error
        return requests.read_event(self._request, reply)

    def close(self) -> None:
        """End it.  Twice is harmless."""
        if self._wire is not None:
            self._wire.close()

    def __exit__(self, *_: object) -> None:
        self.close()
