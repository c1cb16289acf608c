"""One front's connection: the steps of a call, which a front repeats until they are done."""

import contextlib
import select
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from nsbroker.client.requests import Request
from nsbroker.errors import ConnectionFailed, ConnectionLost
from nsbroker.linux import ancillary
from nsbroker.varlink.connection import ClientConnection, IncomingReply
from nsbroker.varlink.framing import END, MESSAGE_MAX

T = TypeVar("T")


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


class NotTaken(ConnectionLost):
    """The broker hung up, and has read nothing of the call: it may be made again on another connection."""


class Wire:
    """One front's connection: its socket, and the steps of a call, which a front repeats until they are done.

    `sock` is taken.  Each step does what can be done at once; the socket's own mode says whether it waits.  A connection
    that is over is replaced for the next call, until the wire is closed for good.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.closed = False
        self._connection = ClientConnection()
        self._buffer = memoryview(bytearray(MESSAGE_MAX + len(END)))
        self._rest = memoryview(b"")
        self._fds: Sequence[int] = ()
        self._replies: list[IncomingReply] = []
        self._refused = False

    def is_over(self, request: Request[T]) -> bool:
        """Whether the broker has ended the connection since the last call.  Raises ConnectionLost on a closed wire."""
        if self.closed:
            raise ConnectionLost(f"{request.what()}: this connection is closed; connect again")
        if self.sock.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        if not poll.poll(0):
            return False
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def replace(self, sock: socket.socket) -> None:
        """Go on with another connection (taken)."""
        self.drop()
        self.sock = sock
        self._connection = ClientConnection()

    def start(self, request: Request[T]) -> None:
        """Begin a call."""
        self._refused = False
        self._rest = memoryview(self._connection.call(request.method, request.parameters, more=request.more))
        self._fds = request.fds
        self._replies = []

    def send_some(self) -> bool:
        """Send what there is room for; whether all of it went.  Raises BlockingIOError when there is no room."""
        try:
            self._rest = self._rest[ancillary.send(self.sock, self._rest, self._fds) :]
        except BrokenPipeError:
            # A broker that is full has answered and hung up already: then the answer is still to be read.
            self._refused = True
            return True
        self._fds = ()
        return not self._rest

    def receive_some(self, request: Request[T]) -> None:
        """Receive what is there.  Raises ConnectionLost, ProtocolError, BlockingIOError, OSError."""
        try:
            # One call is under way at a time, so all fds that come are of its reply: nothing else could be glued to it.
            count, fds = ancillary.receive_into(self.sock, self._buffer)
        except ConnectionResetError:
            count, fds = 0, []
        if not count:
            if self._refused:
                raise NotTaken(f"{request.what()}: the broker hung up before it read the call")
            raise ConnectionLost(
                f"{request.what()}: the broker hung up before it answered (restarted, or the call broke the protocol); try again"
            )
        self._connection.receive(bytes(self._buffer[:count]), fds)

    def next_reply(self) -> IncomingReply | None:
        """The next of the replies that have come whole (the caller's to close).  Raises ProtocolError."""
        return self._connection.next_reply()

    def replies(self) -> Sequence[IncomingReply] | None:
        """All replies (the caller's to close), once the last has come.  Raises ProtocolError."""
        while (reply := self.next_reply()) is not None:
            self._replies.append(reply)
            if reply.last:
                return self._replies
        return None

    def close(self) -> None:
        """End the connection for good.  Twice is harmless."""
        self.closed = True
        self.drop()

    def drop(self) -> None:
        """End the connection; another may take its place.  Twice is harmless."""
        for reply in self._replies:
            reply.close()
        self._connection.close()
        # Wakes a thread that waits on it, which closing alone does not.
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
