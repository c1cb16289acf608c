"""One front's connection: the steps of a call, which a front repeats until they are done."""

import contextlib
import select
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from nsbroker.client.requests import Request
from nsbroker.errors import ConnectionFailed, ConnectionLost, InvalidTarget, ProtocolError
from nsbroker.linux import ancillary
from nsbroker.varlink.connection import ClientConnection, IncomingReply
from nsbroker.varlink.framing import END, MESSAGE_MAX

T = TypeVar("T")

PATIENCE = 10.0
"""How long a front waits for each step of a call, in seconds, unless it is told otherwise."""
REPLIES_MAX = 64 * 1024 * 1024
"""How much all replies to one call may take, in bytes."""
# What a reply takes here beside its bytes, roughly: a broker must not get far by sending many that are nearly empty.
_REPLY_COST = 256


def connect_failed(path: Path, error: OSError) -> ConnectionFailed:
    """What to raise when there is no connection to be had."""
    match error:
        case FileNotFoundError() | ConnectionRefusedError():
            hint = "is the daemon running? (`nsbroker serve`, as root)"
        case PermissionError():
            hint = "the socket or a folder above it is not open to you"
        case _:
            hint = "it does not answer"
    return ConnectionFailed(f"no broker at {path}: {error.strerror or error}: {hint}")


def checked_timeout(seconds: float | None) -> float | None:
    """A timeout as callers give it.  Raises ValueError for one that is not positive."""
    if seconds is not None and not seconds > 0:
        raise ValueError(f"a timeout of {seconds!r} s: write a number greater than 0, or None to wait for ever")
    return seconds


class NotTaken(ConnectionLost):
    """The broker hung up, and has read nothing of the call: it may be made again on another connection."""


class Wire:
    """One front's connection: its socket, and the steps of a call, which a front repeats until they are done.

    `sock` is taken, and made non-blocking: each step does what can be done at once.  `arrivals` polls it for what comes.  A
    connection that is over is replaced for the next call, until the wire is closed for good.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.closed = False
        self._use(sock)
        self._buffer = memoryview(bytearray(MESSAGE_MAX + len(END)))
        self._rest = memoryview(b"")
        self._fds: Sequence[int] = ()
        self._incoming: list[int] = []
        self._replies: list[IncomingReply] = []
        self._size = 0
        self._refused = False

    def _use(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)
        self.arrivals = select.poll()
        self.arrivals.register(sock, select.POLLIN)
        self._connection = ClientConnection()
        self._used = False

    def is_over(self, request: Request[T]) -> bool:
        """Whether the broker has ended the connection since the last call.

        Raises ConnectionLost on a closed wire, ProtocolError when the broker said something that nobody asked for.
        """
        if self.closed:
            raise ConnectionLost(f"{request.what()}: this connection is closed; connect again")
        if self.sock.fileno() < 0:
            return True
        if not self.arrivals.poll(0):
            return False
        try:
            unasked = self.sock.recv(1, socket.MSG_PEEK)
        except OSError:
            return True
        # A broker that is full answers the first call of a connection before it is made, and hangs up.
        if unasked and self._used:
            self.drop()
            raise ProtocolError(f"{request.what()}: the broker sent an answer before anything was asked")
        return not unasked

    def replace(self, sock: socket.socket) -> None:
        """Go on with another connection (taken), after `drop`."""
        self._use(sock)

    def start(self, request: Request[T], fds: list[int]) -> None:
        """Begin a call.  Descriptors that come with its answer are added to `fds`, which is the caller's, as they are.

        Raises InvalidTarget for text that cannot be sent.
        """
        self._refused = False
        try:
            call = self._connection.call(request.method, request.parameters, more=request.more)
        except UnicodeEncodeError as error:
            # Half a surrogate pair: what os.fsdecode makes of bytes that are no text.
            raise InvalidTarget(f"{error.object[:80]!r} is no text that can be sent to the broker: it is not UTF-8") from error
        self._rest = memoryview(call)
        self._fds = request.fds
        self._incoming = fds
        self._replies = []
        self._size = 0
        self._used = True

    def send_some(self, request: Request[T]) -> bool:
        """Send what there is room for; whether all of it went.  Raises BlockingIOError when there is no room, ConnectionLost."""
        try:
            self._rest = self._rest[ancillary.send(self.sock, self._rest, self._fds) :]
        except BrokenPipeError:
            # A broker that is full has answered and hung up already: then the answer is still to be read.
            self._refused = True
            return True
        except OSError as error:
            self._lost(request, error)
            raise
        self._fds = ()
        return not self._rest

    def receive_some(self, request: Request[T]) -> None:
        """Receive what is there.  Raises ConnectionLost, ProtocolError, BlockingIOError."""
        fds = self._incoming
        before = len(fds)
        try:
            # One call is under way at a time, so all fds that come are of its reply: nothing else could be glued to it.
            count = ancillary.receive_owned(self.sock, self._buffer, fds)
        except ConnectionResetError:
            count = 0
        except OSError as error:
            self._lost(request, error)
            raise
        carried = len(fds) > before
        if carried and (before or not request.takes_fds):
            ancillary.close_and_clear(fds)
            raise ProtocolError(f"{request.what()}: the broker sent file descriptors that nobody asked for")
        if not count:
            if self.closed:
                raise ConnectionLost(f"{request.what()}: the connection was closed meanwhile")
            if self._refused:
                raise NotTaken(f"{request.what()}: the broker hung up before it read the call")
            raise ConnectionLost(
                f"{request.what()}: the broker hung up before it answered (restarted, or the call broke the protocol); try again"
            )
        self._size += count
        self._connection.receive(bytes(self._buffer[:count]), fds if carried else [])

    def _lost(self, request: Request[T], error: OSError) -> None:
        """Raise ConnectionLost for an error of the kernel's; return for what a signal handler raised, and BlockingIOError."""
        if self.closed:
            raise ConnectionLost(f"{request.what()}: the connection was closed meanwhile") from error
        if error.errno is not None and not isinstance(error, BlockingIOError):
            raise ConnectionLost(f"{request.what()}: the connection broke: {error.strerror}") from error

    @property
    def started(self) -> bool:
        """Whether a reply has begun to arrive and is not complete."""
        return self._connection.started

    @property
    def ready(self) -> bool:
        """Whether `next_reply` has something to give out or to raise."""
        return self._connection.ready

    def next_reply(self) -> IncomingReply | None:
        """The next of the replies that have come whole.  Raises ProtocolError."""
        return self._connection.next_reply()

    def replies(self, request: Request[T]) -> Sequence[IncomingReply] | None:
        """All replies, once the last has come.  Raises ProtocolError, also when there is no end of them."""
        while (reply := self.next_reply()) is not None:
            self._replies.append(reply)
            self._size += _REPLY_COST
            if self._size > REPLIES_MAX:
                raise ProtocolError(f"{request.what()}: the broker's replies take more than {REPLIES_MAX} bytes")
            if reply.last:
                if self.ready or self.started:
                    raise ProtocolError(f"{request.what()}: the broker sent more than the answer")
                replies, self._replies = self._replies, []
                return replies
        return None

    def close(self) -> None:
        """End the connection for good.  Twice is harmless."""
        self.closed = True
        self.drop()

    def drop(self) -> None:
        """End the connection; another may take its place.  Twice is harmless."""
        if self.sock.fileno() >= 0:
            # Wakes a thread that waits on it, which closing alone does not.
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
        self._leave()

    def after_fork(self) -> None:
        """Close this process's copies alone: to the parent the socket is still the connection."""
        self._leave()
        ancillary.close_and_clear(self._incoming)

    def _leave(self) -> None:
        self.sock.close()
        self._connection.close()
        self._replies = []
