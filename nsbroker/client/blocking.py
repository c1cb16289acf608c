"""The blocking front: for scripts and threads."""

import errno
import io
import math
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from socket import getaddrinfo
from typing import Self, TypeVar

from nsbroker.client import requests
from nsbroker.client.addresses import STREAM, is_of_address, most_telling, queue_stays_full
from nsbroker.client.forking import Forked
from nsbroker.client.transport import PATIENCE, NotTaken, Wire, checked_timeout, connect_failed
from nsbroker.errors import ConnectionLost, Timeout
from nsbroker.linux.ancillary import close_and_clear
from nsbroker.model.description import NamespaceDescription
from nsbroker.model.identity import Expectation, NamespaceType
from nsbroker.namespace import Namespace
from nsbroker.protocol.address import socket_path
from nsbroker.protocol.messages import DeviceDescription, ExplainReply, HeldDescription, PeerDescription, Status, WatchReply
from nsbroker.varlink.connection import IncomingReply

T = TypeVar("T")
# A method is called `list`, too.
List = list
# A method of the front is called `socket`, too.
Socket = socket.socket
# poll(2) counts milliseconds in 31 bits; a longer wait is one after the other.
_POLL_MAX = 1e6


def connect(address: str | None = None, *, timeout: float | None = PATIENCE) -> "Broker":
    """Connect to the broker at `address`, by default $NSBROKER_ADDRESS or the usual place.

    `timeout` in seconds is for each step: connecting, sending a call, each reply to it.  One that takes longer raises
    Timeout and ends the connection; None waits for ever.
    Raises ConnectionFailed, Timeout, and InvalidAddress for what is no address.
    """
    return Broker(socket_path(address), checked_timeout(timeout))


def _connected(path: Path, timeout: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        end = _end(timeout)
        while not _has_connected(sock, path, end):
            if timeout is not None and time.monotonic() >= end:
                raise queue_stays_full(path, timeout)
        sock.setblocking(False)
        return sock
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError) and not isinstance(error, Timeout):
            raise connect_failed(path, error) from error
        raise


def _has_connected(sock: socket.socket, path: Path, end: float) -> bool:
    """Connect, and while the listener has no room left, wait in the kernel, which lets those who wait in by turns: until
    `end`, or a signal.
    """
    left = 0.0 if end == math.inf else max(end - time.monotonic(), 0.001)
    # 0 is for ever; see SO_SNDTIMEO in socket(7) and unix(7).
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(left), int(left % 1 * 1e6)))
    try:
        sock.connect(str(path))
        # Python takes a socket for connected whose connect(2) a signal has interrupted.
        sock.getpeername()
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        return False
    return True


def _end(timeout: float | None) -> float:
    return math.inf if timeout is None else time.monotonic() + timeout


def _readable(wire: Wire, end: float) -> bool:
    """Wait until something comes, or the end of it; false when it is `end` first."""
    return _polled(wire.arrivals, end)


def _writable(wire: Wire, request: requests.Request[T], end: float) -> bool:
    """Wait until there is room to send; false when it is `end` first."""
    number = wire.sock.fileno()
    if number < 0:
        raise ConnectionLost(f"{request.what()}: the connection was closed meanwhile")
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    return _polled(poll, end)


def _polled(poll: select.poll, end: float) -> bool:
    while not poll.poll(max(0, math.ceil(1000 * min(end - time.monotonic(), _POLL_MAX)))):
        if time.monotonic() >= end:
            return False
    return True


class Broker(Forked):
    """A connection to the broker.  One call at a time; threads may share it, and so may processes that were forked: a child
    has a connection of its own.

    A connection that ended between two calls, because the broker was restarted, is made anew by itself.
    """

    def __init__(self, path: Path, timeout: float | None) -> None:
        """Use `nsbroker.connect`."""
        self._path = path
        self._timeout = timeout
        self._wire = Wire(_connected(path, timeout))
        self._lock = threading.Lock()
        super().__init__()

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
        return Watch(self._path, self._timeout, requests.watch(types))

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

        A host's name is looked up here, not inside; each of its addresses is tried.  `timeout` is for each address, and for
        each step of asking the broker, for which the connection's own holds as well.  Raises OSError when nobody answers,
        and the errors of `socket`.
        """
        failures: list[Exception] = []
        for family, kind, protocol, _, place in getaddrinfo(*address, type=STREAM):
            sock = None
            try:
                sock = self._call(requests.open_socket(target, family, kind, protocol, None), timeout)
                sock.settimeout(timeout)
                sock.connect(place)
            except BaseException as error:
                if sock is not None:
                    sock.close()
                if not isinstance(error, Exception) or not is_of_address(error):
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

    def _call(self, request: requests.Request[T], timeout: float | None = None) -> T:
        timeouts = [one for one in (self._timeout, timeout) if one is not None]
        patience = min(timeouts, default=None)
        # Descriptors that come with the answer are in here until somebody has them, whatever happens.
        fds: list[int] = []
        try:
            with self._lock:
                if self._wire.is_over(request):
                    self._connect_again(patience)
                try:
                    replies = self._exchange(request, fds, patience)
                except NotTaken:
                    self._connect_again(patience)
                    replies = self._exchange(request, fds, patience)
            return requests.finish(request, replies)
        finally:
            close_and_clear(fds)

    def _connect_again(self, timeout: float | None) -> None:
        self._wire.drop()
        self._wire.replace(_connected(self._path, timeout))

    def _exchange(self, request: requests.Request[T], fds: List[int], timeout: float | None) -> Sequence[IncomingReply]:
        wire = self._wire
        try:
            wire.start(request, fds)
            _send(wire, request, timeout)
            while (replies := wire.replies(request)) is None:
                _receive(wire, request, timeout)
        except BaseException:
            # Half a call or half an answer: nothing on this connection would be what it seems.
            wire.drop()
            raise
        return replies

    def after_fork(self) -> None:
        """Have the child connect anew, with its first call.  Another thread of the parent's may have held the lock."""
        self._lock = threading.Lock()
        self._wire.after_fork()

    def close(self) -> None:
        """End the connection.  Twice is harmless; handles that were opened stay open."""
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _send(wire: Wire, request: requests.Request[T], timeout: float | None) -> None:
    """Send the call that was started.  Raises Timeout."""
    end = _end(timeout)
    while True:
        try:
            if wire.send_some(request):
                return
        except BlockingIOError:
            if not _writable(wire, request, end) and timeout is not None:
                raise Timeout(request.what(), timeout) from None


def _receive(wire: Wire, request: requests.Request[T], timeout: float | None) -> None:
    """Receive until another reply is there.  Raises Timeout when that takes too long, however many bytes of it came."""
    end = _end(timeout)
    while not wire.ready:
        if not _readable(wire, end) and timeout is not None:
            raise Timeout(request.what(), timeout)
        try:
            wire.receive_some(request)
        except BlockingIOError:
            continue  # Something else than what was waited for has woken us.


class Watch(Forked):
    """A watch: a context manager, and an iterator of events that never ends by itself.  `close` from another thread ends it,
    with ConnectionLost for who waits.

    It belongs to the process that began it: in a child that was forked it is over.
    """

    def __init__(self, path: Path, timeout: float | None, request: requests.Request[None]) -> None:
        """Use `Broker.watch`."""
        self._path = path
        self._timeout = timeout
        self._request = request
        self._wire: Wire | None = None
        self._fds: list[int] = []
        self._end = "is closed"
        super().__init__()

    def __enter__(self) -> Self:
        self._wire = Wire(_connected(self._path, self._timeout))
        self._begun = False
        try:
            self._wire.start(self._request, self._fds)
            _send(self._wire, self._request, self._timeout)
        except BaseException:
            self.close()
            raise
        return self

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> WatchReply:
        wire = self._wire
        if wire is None or wire.closed:
            raise ConnectionLost(f"{self._request.what()}: this watch {self._end}")
        if self._begun and not wire.started and not wire.ready:
            # Nothing may happen for hours.
            _readable(wire, math.inf)
        try:
            if not wire.ready:
                _receive(wire, self._request, self._timeout)
            reply = wire.next_reply()
        except BaseException:
            # What was received is perhaps lost: what follows would not be what it seems.
            self.close()
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
        if self._wire is not None:
            self._wire.close()
        close_and_clear(self._fds)

    def after_fork(self) -> None:
        """End it in the child."""
        self._end = "belongs to the process that this one was forked from; begin another"
        if self._wire is not None:
            self._wire.closed = True
            self._wire.after_fork()

    def __exit__(self, *_: object) -> None:
        self.close()
