"""The parts that the blocking and the trio conduit share: checking the socket, and sending and checking messages."""

import os
import socket
from typing import IO, Any, Self

from nsbroker.errors import (
    ConduitClosed,
    ConduitError,
    DescriptorsLost,
    ForeignControlMessage,
    NoDescriptor,
    SeveralDescriptors,
    TransferFailed,
    UnusableTransport,
    WrongDescriptor,
)
from nsbroker.linux import ancillary

PAYLOAD = b"F"
"""The data of each message: the kernel sends descriptors only together with at least one byte."""
CONTROL_SIZE = socket.CMSG_SPACE(ancillary.SCM_MAX_FD * 4) + socket.CMSG_SPACE(1024)
"""The size of the control buffer: enough for all descriptors of one message, and for unexpected control messages."""


class ConduitBase:
    """The base class of conduits: owning the socket."""

    def __init__(self, sock: socket.socket) -> None:
        """Take `sock`; after UnusableTransport it is still the caller's."""
        if not isinstance(sock, socket.socket):
            raise UnusableTransport(f"a conduit needs a socket, not {type(sock).__name__}")
        if sock.family != socket.AF_UNIX:
            raise UnusableTransport(f"a conduit needs an AF_UNIX socket, not {sock.family.name}: no other carries descriptors")
        self._sock = sock

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        """Return two conduits that are connected to each other."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(left), cls(right)

    @property
    def closed(self) -> bool:
        """Whether the conduit was closed."""
        return self._sock.fileno() < 0

    def close(self) -> None:
        """Close the socket.  Closing twice is harmless."""
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self.closed:
            raise ConduitClosed("this conduit is closed")


def flush(file: IO[Any]) -> int:
    """Flush `file` and return its descriptor, which the file still owns.  Raises TransferFailed."""
    try:
        file.flush()
        return file.fileno()
    except (OSError, ValueError) as error:
        raise transfer_failed("file", error) from error


def send(sock: socket.socket, fd: int, what: str) -> None:
    """Send `fd` (borrowed).  Raises TransferFailed, and BlockingIOError when the socket's buffer is full.

    `what` names the thing that is sent in the error message.
    """
    try:
        ancillary.send(sock, PAYLOAD, [fd])
    except BlockingIOError:
        raise
    except (OSError, ValueError) as error:
        raise transfer_failed(what, error) from error


def transfer_failed(what: str, error: OSError | ValueError) -> TransferFailed:
    """Return the error to raise when sending failed."""
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return TransferFailed(f"the {what} was not sent: {reason}; it is unchanged, and still yours to close")


def receive(sock: socket.socket) -> tuple[bytes, ancillary.Ancillary, int]:
    """Receive one message, unchecked: the arguments of `read_message`.  Raises OSError, TimeoutError if the socket has a timeout.

    A connection that was reset is returned as the end.
    """
    try:
        data, control, flags, _ = sock.recvmsg(len(PAYLOAD), CONTROL_SIZE, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return b"", [], 0
    return data, control, flags


def read_message(data: bytes, control: ancillary.Ancillary, flags: int) -> int:
    """Check a received message and return its descriptor (the caller's).

    Each kind of wrong message raises an error class of its own, and all descriptors that came with it are closed.
    """
    fds, foreign = ancillary.split(control)
    fault = _find_fault(data, fds, foreign, flags)
    if fault is not None:
        ancillary.close_all(fds)
        raise fault
    return fds[0]


def _find_fault(data: bytes, fds: list[int], foreign: list[tuple[int, int]], flags: int) -> ConduitError | None:
    if flags & socket.MSG_CTRUNC:
        return DescriptorsLost("descriptors were lost: too many files are open in this process")
    if flags & socket.MSG_TRUNC:
        return DescriptorsLost("the message is longer than those that a conduit sends")
    if not data and not fds:
        return ConduitClosed("the other side hung up")
    if foreign:
        level, kind = foreign[0]
        return ForeignControlMessage(
            f"an unexpected control message arrived (level {level}, type {kind}): is SO_PASSCRED or a similar option set?"
        )
    if not fds:
        return NoDescriptor("a message arrived without a descriptor")
    if len(fds) > 1:
        return SeveralDescriptors(f"{len(fds)} descriptors came in one message, but a conduit sends one at a time")
    return None


def as_file(fd: int, mode: str) -> IO[Any]:
    """Return a file object of `fd` (taken, also on error).  Raises WrongDescriptor for a folder, ValueError for a bad mode."""
    try:
        # When open() fails, it may or may not have closed the fd.  This first attempt with closefd=False never closes it.
        os.fdopen(fd, mode, closefd=False).close()
    except OSError as error:
        os.close(fd)
        raise WrongDescriptor(f"the received descriptor is no file: {error.strerror}") from error
    except BaseException:
        os.close(fd)
        raise
    return os.fdopen(fd, mode)


def as_socket(fd: int) -> socket.socket:
    """Return a socket object of `fd` (taken, also on error) with its family, type and protocol from the kernel.

    Raises WrongDescriptor when `fd` is not a socket.
    """
    try:
        return socket.socket(fileno=fd)
    except OSError as error:
        os.close(fd)
        raise WrongDescriptor(f"the received descriptor is no socket: {error.strerror}") from error
