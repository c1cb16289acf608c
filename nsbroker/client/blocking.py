"""The blocking client, for scripts and threads."""

import errno
import math
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from socket import getaddrinfo
from typing import Any, Self, TypeVar

from nsbroker.client import file_requests, requests
from nsbroker.client.addresses import STREAM, InetAddress, concerns_one_address, inet_addresses, most_informative
from nsbroker.client.blocking_methods import BlockingMethods
from nsbroker.client.connecting import check_no_address, check_timeout, connect_failed, require_path, take_connection
from nsbroker.client.forking import Forked
from nsbroker.client.lookup import Resolve, is_inside, look_up
from nsbroker.client.pending import PendingCall
from nsbroker.client.transport import DEFAULT_TIMEOUT, Transport
from nsbroker.errors import Timeout
from nsbroker.protocol.address import socket_path

T = TypeVar("T")
# Inside the class, `socket` is a method.
Socket = socket.socket
# In seconds.  poll(2) counts milliseconds in 31 bits, so a longer wait is split into several.
_POLL_MAX = 1e6


def connect(address: str | None = None, *, fd: int | None = None, timeout: float | None = DEFAULT_TIMEOUT) -> "Broker":
    """Connect to the broker at `address`; by default at $NSBROKER_ADDRESS, or else unix:/run/nsbroker/io.nsbroker.Broker.

    With `fd`, use that descriptor instead: a connection to the broker that this process inherited or received.  It is
    taken, and set close-on-exec; nobody else may use it any longer.  For the broker, the caller still is the process
    that connected.  Such a client has only this connection: once it has ended, and in a forked child, calls raise
    ConnectionLost.

    `timeout` is in seconds, for each step: connecting, sending a call, receiving each reply.  A step that takes longer raises
    Timeout and closes the connection.  None means no limit.

    Raises ConnectionFailed, Timeout, InvalidAddress if `address` is not the address of a broker, and ValueError for both an
    address and a descriptor (which is not taken then).
    """
    seconds = check_timeout(timeout)
    if fd is not None:
        check_no_address(address)
        return Broker(take_connection(fd), None, seconds)
    path = socket_path(address)
    return Broker(open_connection(path, seconds), path, seconds)


def open_connection(path: Path, timeout: float | None) -> socket.socket:
    """Return a non-blocking socket (the caller's to close) that is connected to the broker at `path`.

    `timeout` is in seconds (None: no limit).  Raises ConnectionFailed, Timeout.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        deadline = _deadline(timeout)
        while not _try_connect(sock, path, deadline):
            if timeout is not None and time.monotonic() >= deadline:
                raise Timeout(f"connect to the broker at {path}", timeout)
        sock.setblocking(False)
        return sock
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError) and not isinstance(error, Timeout):
            raise connect_failed(path, error) from error
        raise


def _try_connect(sock: socket.socket, path: Path, deadline: float) -> bool:
    """Try to connect, and return whether that worked.

    If the queue of the listener is full, this waits until `deadline` or until a signal arrives.  It waits in the kernel,
    which serves the waiting processes in turn.
    """
    left = 0.0 if deadline == math.inf else max(deadline - time.monotonic(), 0.001)
    # For SO_SNDTIMEO, 0 means no timeout: see socket(7) and unix(7).
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(left), int(left % 1 * 1e6)))
    try:
        sock.connect(str(path))
        # If a signal interrupts connect(2), Python behaves as if the socket were connected.  getpeername(2) shows whether it is.
        sock.getpeername()
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        return False
    return True


def _deadline(timeout: float | None) -> float:
    return math.inf if timeout is None else time.monotonic() + timeout


def _poll(poll: select.poll, deadline: float) -> None:
    """Wait for an event of `poll`, or until `deadline`."""
    while not poll.poll(max(0, math.ceil(1000 * min(deadline - time.monotonic(), _POLL_MAX)))):
        if time.monotonic() >= deadline:
            return


def _sending(sock: socket.socket) -> select.poll:
    """Return a poll object for received data, and for room to send."""
    poll = select.poll()
    if sock.fileno() >= 0:
        poll.register(sock, select.POLLIN | select.POLLOUT)
    return poll


class Broker(BlockingMethods, Forked):
    """A connection to the broker.  Threads may share it: their calls are made one after the other.

    A forked child may use the object, too: it gets a connection of its own.  If the connection ended between two calls,
    because the broker was restarted, the next call connects again.
    """

    def __init__(self, sock: Socket, path: Path | None, timeout: float | None) -> None:
        """Use `nsbroker.connect`.  Takes `sock`, which is connected to `path` (None: it cannot be connected again)."""
        self._path = path
        self._timeout = timeout
        self._transport = Transport(sock)
        self._lock = threading.Lock()
        super().__init__()

    def socket(
        self,
        target: requests.TargetLike,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
        *,
        bind: tuple[str, int] | None = None,
        mark: int | None = None,
    ) -> Socket:
        """Open a socket in the network namespace of `target`; it is the caller's to close.

        The arguments are those of socket.socket().  With `bind` (address, port), the broker first binds an inet or inet6
        socket; a port below 1024 takes a permission of its own.  With `mark`, it marks the socket (SO_MARK in socket(7)), which
        also takes a permission of its own.  Raises SocketFailed if the kernel cannot create or bind the socket, InvalidType, and
        the errors of `open`.
        """
        return self._call(requests.open_socket(target, family, type, proto, bind, mark))

    def create_connection(
        self,
        target: requests.TargetLike,
        address: tuple[str, int],
        timeout: float | None = None,
        *,
        resolve: Resolve = "here",
    ) -> Socket:
        """Connect to `address` (host, port) from inside `target`, as socket.create_connection() does from this process.

        A host name is looked up in this process or, with resolve="inside", as the target does: in its hosts file, then by the
        servers of its resolv.conf, which are asked from inside.  That takes the permissions to open both files and the sockets,
        and dnspython (the extra `dns`).  For a namespace without a process, the files are those in /etc/netns/NAME, or else
        the host's, as with `ip netns exec`.

        Each address of the name is tried.  `timeout` is in seconds.  It limits looking the name up inside and connecting to each
        address, and becomes the timeout of the returned socket.  It also limits each step of the calls to the broker, together
        with the timeout of `connect`: if it is over first, only this call ends, not the connection.  Raises OSError if no
        connection can be made, LookupFailed (an OSError) if the name is not known inside, and the errors of `socket`.
        """
        failures: list[Exception] = []
        for family, kind, protocol, sockaddr in self._look_up(target, address, timeout, is_inside(resolve)):
            sock = None
            try:
                sock = self._call(requests.open_socket(target, family, kind, protocol, None, None), timeout)
                sock.settimeout(timeout)
                sock.connect(sockaddr)
            except BaseException as error:
                if sock is not None:
                    sock.close()
                if not isinstance(error, Exception) or not concerns_one_address(error):
                    raise
                failures.append(error)
            else:
                return sock
        raise most_informative(failures)

    def _look_up(
        self, where: requests.TargetLike, address: tuple[str, int], timeout: float | None, inside: bool
    ) -> list[InetAddress]:
        host, port = address
        if not inside:
            found = getaddrinfo(host, port, type=STREAM)
            return [InetAddress(family, kind, protocol, sockaddr) for family, kind, protocol, _, sockaddr in found]
        target = requests.parse_target(where)

        def read(name: str) -> bytes:
            with self._call(file_requests.open_file(target, name), timeout) as file:
                return file_requests.read_configuration(file)

        def open_socket(family: int, kind: int) -> Socket:
            return self._call(requests.open_socket(target, family, kind, 0, None, None), timeout)

        return inet_addresses(look_up(target, host, read, open_socket, timeout), port)

    def _begin(self, call: PendingCall[Any]) -> None:
        with self._lock:
            # What nobody waits for any longer may be overdue.
            self._transport.end_if_overdue(self._timeout)
            if self._transport.is_over(call.request):
                self._connect_again(call)
            self._transport.start(call)

    def _settle(self, call: PendingCall[Any]) -> None:
        with self._lock:
            self._transfer(call)

    def _transfer(self, call: PendingCall[Any]) -> None:
        """Send and receive until `call` is settled.

        Raises Timeout if its own limit is over.  The connection and the other calls on it, which may be those of other threads, go
        on, so `call.abandon` must follow.
        """
        transport, begun = self._transport, time.monotonic()
        while not call.settled:
            deadline = _deadline(transport.seconds_left(self._timeout))
            if call.timeout is not None:
                own_deadline = max(begun, transport.since) + call.timeout
                if time.monotonic() >= own_deadline:
                    raise Timeout(call.request.what(), call.timeout)
                deadline = min(deadline, own_deadline)
            _poll(_sending(transport.sock) if transport.wants_to_send else transport.arrivals, deadline)
            transport.advance_in_time(call, self._timeout)

    def _connect_again(self, call: PendingCall[Any]) -> None:
        path = require_path(self._path, call.request)
        self._transport.drop()
        limits = [limit for limit in (self._timeout, call.timeout) if limit is not None]
        self._transport.replace(open_connection(path, min(limits, default=None)))
        self._restrict_again(self._transport.restrictions, call.timeout)

    def _restrict_again(self, restrictions: Sequence[requests.Request[None]], timeout: float | None = None) -> None:
        """Restrict a new connection, before anything else is sent.  If that fails, the connection is not used.

        `timeout` (in seconds) limits each step, beside that of the client.
        """
        try:
            for restriction in list(restrictions):
                call = PendingCall(restriction, timeout=timeout)
                self._transport.start(call)
                self._transfer(call)
                self._result(call)
            self._transport.restricted = True
        except BaseException:
            self._transport.drop()
            raise

    def _open_another(self, request: requests.Request[T]) -> "Broker":
        path = require_path(self._path, request)
        another = Broker(open_connection(path, self._timeout), path, self._timeout)
        try:
            another._restrict_again(self._transport.restrictions)
        except BaseException:
            another.close()
            raise
        return another

    def after_fork(self) -> None:
        """Make the child connect again with its first call.  Another thread may have held the lock, so the lock is new."""
        self._lock = threading.Lock()
        self._transport.after_fork()

    def detach(self) -> int:
        """Give the connection to the caller, as its descriptor, and close the client.  Another process may go on with it.

        The descriptor is the caller's to close.  It is close-on-exec, and non-blocking in all processes that have it: a program
        that does not expect EAGAIN clears O_NONBLOCK first (fcntl(2)).  Raises ConnectionLost if the connection has ended.
        """
        while True:
            with self._lock:
                if not self._transport.busy:
                    return self._transport.detach()
            # Replies come in order, so nothing that was asked before is under way after this.
            self._call(requests.who_am_i())

    def close(self) -> None:
        """Close the connection.  Opened handles stay open.  Closing twice does nothing."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
