"""What the conduits share: which socket will do, and what a message must be."""

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
"""A descriptor must ride on some byte."""
ROOM = socket.CMSG_SPACE(ancillary.SCM_MAX_FD * 4) + socket.CMSG_SPACE(1024)
"""Enough for all descriptors that can come at once, and for control messages that should not."""


class ConduitBase:
    """What all conduits are, however they wait."""

    def __init__(self, sock: socket.socket) -> None:
        """Takes `sock`, unless this raises UnusableTransport."""
        if not isinstance(sock, socket.socket):
            raise UnusableTransport(f"a conduit goes over a socket, not over {type(sock).__name__}")
        if sock.family != socket.AF_UNIX:
            raise UnusableTransport(
                f"a conduit goes over an AF_UNIX socket, not over {sock.family.name}: no other carries descriptors"
            )
        self._sock = sock

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        """Two that are connected to each other."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(left), cls(right)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._sock.fileno() < 0

    def close(self) -> None:
        """Close the socket.  Twice is harmless."""
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _see_open(self) -> None:
        if self.closed:
            raise ConduitClosed("this conduit is closed")


def flushed(file: IO[Any]) -> int:
    """The descriptor (still the file's) of `file`, all that was written to it flushed.  Raises TransferFailed."""
    try:
        file.flush()
        return file.fileno()
    except (OSError, ValueError) as error:
        raise transfer_failed("file", error) from error


def send(sock: socket.socket, fd: int, what: str) -> None:
    """Send `fd` (borrowed).  Raises TransferFailed, and BlockingIOError when there is no room."""
    try:
        ancillary.send(sock, PAYLOAD, [fd])
    except BlockingIOError:
        raise
    except (OSError, ValueError) as error:
        raise transfer_failed(what, error) from error


def transfer_failed(what: str, error: OSError | ValueError) -> TransferFailed:
    """What to raise when sending failed."""
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return TransferFailed(f"the {what} was not sent: {reason}; what you gave is as it was, and still yours")


def receive(sock: socket.socket) -> tuple[bytes, ancillary.Ancillary, int]:
    """One message as it comes, for `read_message`.  Raises OSError, also TimeoutError of a socket that has one."""
    try:
        data, control, flags, _ = sock.recvmsg(len(PAYLOAD), ROOM, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return b"", [], 0
    return data, control, flags


def read_message(data: bytes, control: ancillary.Ancillary, flags: int) -> int:
    """The one descriptor (the caller's) of a message.  Anything else is an error of its own, and all that came is closed."""
    fds, foreign = ancillary.split(control)
    fault = _fault(data, fds, foreign, flags)
    if fault is not None:
        ancillary.close_all(fds)
        raise fault
    return fds[0]


def _fault(data: bytes, fds: list[int], foreign: list[tuple[int, int]], flags: int) -> ConduitError | None:
    if flags & socket.MSG_CTRUNC:
        return DescriptorsLost("descriptors were lost on the way: too many files are open here")
    if flags & socket.MSG_TRUNC:
        return DescriptorsLost("the message is longer than a conduit's")
    if not data and not fds:
        return ConduitClosed("the other side hung up")
    if foreign:
        level, kind = foreign[0]
        return ForeignControlMessage(f"a control message of level {level} and type {kind} came along (SO_PASSCRED and the like)")
    if not fds:
        return NoDescriptor("data came without a descriptor")
    if len(fds) > 1:
        return SeveralDescriptors(f"{len(fds)} descriptors came where one is carried at a time")
    return None


def as_file(fd: int, mode: str) -> IO[Any]:
    """A file object of `fd` (taken, also on error).  Raises WrongDescriptor (a folder), ValueError for a bad mode."""
    try:
        # open() may or may not have closed what it refuses; tried without owning it first, it has not.
        os.fdopen(fd, mode, closefd=False).close()
    except OSError as error:
        os.close(fd)
        raise WrongDescriptor(f"what came is no file: {error.strerror}") from error
    except BaseException:
        os.close(fd)
        raise
    return os.fdopen(fd, mode)


def as_socket(fd: int) -> socket.socket:
    """A socket of `fd` (taken, also on error) with the family, type and protocol that the kernel says.  WrongDescriptor."""
    try:
        return socket.socket(fileno=fd)
    except OSError as error:
        os.close(fd)
        raise WrongDescriptor(f"what came is no socket: {error.strerror}") from error
