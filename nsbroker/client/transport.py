"""The connection of a client: the steps of a call, without waiting.  The client repeats a step until it is done."""

import contextlib
import errno
import os
import select
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, cast

from nsbroker.client.requests import Request
from nsbroker.errors import ConnectionFailed, ConnectionLost, InvalidTarget, ProtocolError
from nsbroker.linux import ancillary
from nsbroker.varlink.connection import ClientConnection, IncomingReply
from nsbroker.varlink.framing import END, MESSAGE_MAX

T = TypeVar("T")

DEFAULT_TIMEOUT = 10.0
"""The default timeout of a client for each step of a call, in seconds."""
REPLIES_MAX = 64 * 1024 * 1024
"""The limit for the memory of all replies to one call, in bytes."""
# The approximate memory of a reply in addition to its bytes, so that many nearly empty replies reach the limit, too.
_REPLY_COST = 256


def connect_failed(path: Path, error: OSError) -> ConnectionFailed:
    """Return the exception to raise if connecting to the broker at `path` failed."""
    match error:
        case FileNotFoundError() | ConnectionRefusedError():
            hint = "is the daemon running? (`nsbroker serve`, as root)"
        case PermissionError():
            hint = "the socket or a folder above it is not open to you"
        case _:
            hint = "it does not answer"
    return ConnectionFailed(f"no broker at {path}: {error.strerror or error}: {hint}")


def take_connection(fd: int) -> socket.socket:
    """Return the socket of `fd`, a connection to the broker.  Takes `fd`, also on error, and sets it close-on-exec.

    Raises ConnectionFailed if it is no connected Unix stream socket.
    """
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise ConnectionFailed(f"the descriptor {fd} is no connection to a broker: {error.strerror}") from error
    try:
        sock.getpeername()
        if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
            raise OSError(errno.EPROTOTYPE, "it is no Unix stream socket")
    except OSError as error:
        sock.close()
        raise ConnectionFailed(f"the descriptor {fd} is no connection to a broker: {error.strerror}") from error
    return sock


def require_path(path: Path | None, request: Request[T]) -> Path:
    """Return the path at which the client can connect again.  Raises ConnectionLost if it has none."""
    if path is None:
        raise ConnectionLost(
            f"{request.what()}: the connection has ended, is the one of another process, or is needed for other calls, and this "
            "client was made from a descriptor, so that it cannot connect again: make another client"
        )
    return path


def check_no_address(address: str | None) -> None:
    """Check that a caller who gave a descriptor gave no address, too.  Raises ValueError."""
    if address is not None:
        raise ValueError(f"connect({address!r}, fd=...): give either an address or a descriptor, not both")


def check_timeout(seconds: float | None) -> float | None:
    """Return the timeout that a caller gave.  Raises ValueError if it is not positive."""
    if seconds is not None and not seconds > 0:
        raise ValueError(f"a timeout of {seconds!r} s: write a number greater than 0, or None for no limit")
    return seconds


class CallNotRead(ConnectionLost):
    """The broker closed the connection before it read the call, so the call can be made again on another connection."""


class ClosedMeanwhile(Exception):
    """Another task closed the connection that this task waits for."""


class Transport:
    """The connection of a client: its socket, and the steps of a call, which the client repeats until they are done.

    Takes `sock`, and makes it non-blocking: each step does what is possible without waiting.  `arrivals` is a poll object for
    received data.  If a connection has ended, the client replaces it for the next call, until it calls `close`.

    `restrictions` are the calls that restricted the connection.  The client makes them again on each further connection before
    any other call, and then sets `restricted`.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.closed = False
        self.restrictions: list[Request[None]] = []
        self.restricted = True
        # The restriction that is being made for the first time, so that nothing is restricted if the broker refuses it.
        self._new: Request[None] | None = None
        self._use(sock)
        self._buffer = memoryview(bytearray(MESSAGE_MAX + len(END)))
        self._rest = memoryview(b"")
        self._fds: Sequence[int] = ()
        self._incoming: list[int] = []
        self._replies: list[IncomingReply] = []
        self._size = 0
        self._send_failed = False

    def _use(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)
        self.arrivals = select.poll()
        self.arrivals.register(sock, select.POLLIN)
        self._connection = ClientConnection()
        self._used = False

    def is_over(self, request: Request[T]) -> bool:
        """Return whether the connection has ended since the last call.

        Raises ConnectionLost if the client closed it, ProtocolError if the broker sent something without being asked.
        """
        if self.closed:
            raise ConnectionLost(f"{request.what()}: this connection is closed; connect again")
        if self.sock.fileno() < 0 or not self.restricted:
            return True
        if not self.arrivals.poll(0):
            return False
        try:
            unexpected = self.sock.recv(1, socket.MSG_PEEK)
        except OSError:
            return True
        # A broker with too many connections sends an error before the first call of a new connection, and closes it.
        if unexpected and self._used:
            self.drop()
            raise ProtocolError(f"{request.what()}: the broker sent a reply before anything was asked")
        return not unexpected

    def replace(self, sock: socket.socket) -> None:
        """Use another connection from now on, after `drop`.  Takes `sock`.  It counts as over until `restricted` is set."""
        self._use(sock)
        self.restricted = False

    def start(self, request: Request[T], fds: list[int]) -> None:
        """Begin a call.  Descriptors that arrive with its reply are added to `fds`, and are the caller's to close.

        Raises InvalidTarget for text that cannot be sent.
        """
        self._send_failed = False
        try:
            call = self._connection.call(request.method, request.parameters, more=request.more)
        except UnicodeEncodeError as error:
            # The text has a lone surrogate: os.fsdecode() returns these for bytes that are not valid UTF-8.
            raise InvalidTarget(f"{error.object[:80]!r} cannot be sent to the broker: it is not UTF-8 text") from error
        self._new = None
        if request.restricts and all(request.parameters != before.parameters for before in self.restrictions):
            # From now on the broker may have carried it out, whether or not the reply arrives.
            self._new = cast(Request[None], request)
            self.restrictions.append(self._new)
        self._rest = memoryview(call)
        self._fds = request.fds
        self._incoming = fds
        self._replies = []
        self._size = 0
        self._used = True

    def send_some(self, request: Request[T]) -> bool:
        """Send as much as the kernel has room for, and return whether all of it was sent.

        Raises BlockingIOError if there is no room, ConnectionLost.
        """
        try:
            self._rest = self._rest[ancillary.send(self.sock, self._rest, self._fds) :]
        except BrokenPipeError:
            # The broker has closed the connection.  If it has too many connections, it sent an error first, which is read next.
            self._send_failed = True
            return True
        except OSError as error:
            self._check_lost(request, error)
            raise
        self._fds = ()
        return not self._rest

    def receive_some(self, request: Request[T]) -> None:
        """Receive what has arrived.  Raises BlockingIOError if nothing has, ConnectionLost, ProtocolError."""
        fds = self._incoming
        before = len(fds)
        try:
            # Only one call is in progress at a time, so all fds that arrive belong to its reply.
            count = ancillary.receive_owned(self.sock, self._buffer, fds)
        except ConnectionResetError:
            count = 0
        except OSError as error:
            self._check_lost(request, error)
            raise
        has_fds = len(fds) > before
        if has_fds and (before or not request.takes_fds):
            ancillary.close_and_clear(fds)
            raise ProtocolError(f"{request.what()}: the broker sent unexpected file descriptors")
        if not count:
            if self.closed:
                raise ConnectionLost(f"{request.what()}: the connection was closed meanwhile")
            if self._send_failed:
                self._withdraw_restriction()
                raise CallNotRead(f"{request.what()}: the broker closed the connection before it read the call; try again")
            raise ConnectionLost(
                f"{request.what()}: the broker closed the connection before it replied (a restart, or an invalid call); try again"
            )
        self._size += count
        self._connection.receive(bytes(self._buffer[:count]), fds if has_fds else [])

    def _withdraw_restriction(self) -> None:
        """Forget the restriction that is being made, because the broker certainly has not carried it out."""
        if self._new is not None:
            self.restrictions.remove(self._new)
            self._new = None

    def _check_lost(self, request: Request[T], error: OSError) -> None:
        """Raise ConnectionLost if `error` is from the kernel.  Return if a signal handler raised it, or for BlockingIOError."""
        if self.closed:
            raise ConnectionLost(f"{request.what()}: the connection was closed meanwhile") from error
        if error.errno is not None and not isinstance(error, BlockingIOError):
            raise ConnectionLost(f"{request.what()}: the connection broke: {error.strerror}") from error

    @property
    def started(self) -> bool:
        """Whether part of a reply has arrived, but not all of it."""
        return self._connection.started

    @property
    def ready(self) -> bool:
        """Whether `next_reply` has something to return or to raise."""
        return self._connection.ready

    def next_reply(self) -> IncomingReply | None:
        """Return the next complete reply, or None.  Raises ProtocolError."""
        return self._connection.next_reply()

    def replies(self, request: Request[T]) -> Sequence[IncomingReply] | None:
        """Return all replies once the last one has arrived, or None.  Raises ProtocolError, also if they exceed REPLIES_MAX."""
        while (reply := self.next_reply()) is not None:
            self._replies.append(reply)
            self._size += _REPLY_COST
            if self._size > REPLIES_MAX:
                raise ProtocolError(f"{request.what()}: the broker's replies take more than {REPLIES_MAX} bytes")
            if reply.last:
                if self.ready or self.started:
                    raise ProtocolError(f"{request.what()}: the broker sent more than the reply")
                replies, self._replies = self._replies, []
                if reply.error is not None:
                    self._withdraw_restriction()
                return replies
        return None

    def detach(self) -> int:
        """Give the connection to the caller, as its descriptor, and close the transport.  Raises ConnectionLost if it has ended."""
        if self.sock.fileno() < 0:
            raise ConnectionLost("detach the connection: it has ended, or is closed; connect again")
        self.closed = True
        self._connection.close()
        self._replies = []
        return self.sock.detach()

    def close(self) -> None:
        """Close the connection permanently.  Closing twice does nothing."""
        self.closed = True
        self.drop()

    def drop(self) -> None:
        """Close the connection; `replace` may set another one.  Doing this twice does nothing."""
        if self.sock.fileno() >= 0:
            # This wakes a thread that waits for the connection, which close(2) alone does not.
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
        self._release()

    def after_fork(self) -> None:
        """Close the copies of this process, without a shutdown: the parent still uses the connection."""
        self._release()
        ancillary.close_and_clear(self._incoming)

    def _release(self) -> None:
        self.sock.close()
        self._connection.close()
        self._replies = []
