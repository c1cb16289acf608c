"""The parts that all conduits share: checking the socket, and sending and checking messages."""

import os
import select
import socket
from collections.abc import Callable
from typing import IO, Any, Self

from nsbroker.errors import (
    CloseFailed,
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
from nsbroker.linux import ancillary, descriptors
from nsbroker.model.has_fileno import HasFileno

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
    def from_fd(cls, fd: int, *, owned: bool) -> Self:
        """Return a conduit over the AF_UNIX socket with the descriptor number `fd`.

        If `owned` is true, the conduit takes `fd`, makes it close-on-exec and closes it; it is also closed if this raises.  If
        `owned` is false, the conduit uses a duplicate: `fd` stays the caller's, who may close it at any time.  Raises
        UnusableTransport.
        """
        if not owned:
            return cls._take(_duplicate(fd))
        try:
            os.set_inheritable(fd, False)
        except OSError as error:
            raise UnusableTransport(f"a conduit needs an open socket, but the descriptor {fd} is not open") from error
        return cls._take(fd)

    @classmethod
    def from_file(cls, file: HasFileno) -> Self:
        """Return a conduit over a duplicate of the socket that `file` is: a file object, a socket, or what else has a descriptor.

        `file` stays the caller's, who may close it at any time.  Its blocking mode does not change.  Raises UnusableTransport.
        """
        try:
            fd = file.fileno()
        except (AttributeError, OSError, ValueError) as error:
            raise UnusableTransport(f"a conduit needs an open socket, but this {type(file).__name__} has no descriptor") from error
        return cls._take(_duplicate(fd))

    @classmethod
    def _take(cls, fd: int) -> Self:
        """Return a conduit over `fd` (taken, also on error)."""
        try:
            sock = socket.socket(fileno=fd)
        except BaseException as error:
            os.close(fd)
            if isinstance(error, OSError):
                raise UnusableTransport(f"a conduit needs a socket: {error.strerror}") from error
            raise
        try:
            return cls(sock)
        except BaseException:
            sock.close()
            raise

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


def send(sock: socket.socket, fd: int, what: str, flags: int = 0) -> None:
    """Send `fd` (borrowed).  Raises TransferFailed, and BlockingIOError when the socket's buffer is full.

    `what` names the thing that is sent in the error message.  `flags` are those of sendmsg(2).
    """
    try:
        ancillary.send(sock, PAYLOAD, [fd], flags)
    except BlockingIOError:
        raise
    except (OSError, OverflowError, ValueError) as error:
        raise transfer_failed(what, error) from error


def close_sent(close: Callable[[], object], what: str) -> None:
    """Close what was sent.  Raises CloseFailed."""
    try:
        close()
    except OSError as error:
        raise CloseFailed(
            f"the {what} was sent, but closing it here failed: {error.strerror or error}; what was written last may be lost"
        ) from error


def transfer_failed(what: str, error: OSError | OverflowError | ValueError) -> TransferFailed:
    """Return the error to raise when sending failed."""
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return TransferFailed(f"the {what} was not sent: {reason}; it is unchanged, and still yours to close")


def receive(sock: socket.socket, flags: int = 0) -> int:
    """Receive one message and return its descriptor (the caller's).  `flags` are those of recvmsg(2).

    Each kind of wrong message raises an error class of its own, and all descriptors that came with it are closed.  Raises
    OSError, BlockingIOError when there is no message yet, TimeoutError if the socket has a timeout.
    """
    try:
        data, control, got, _ = sock.recvmsg(len(PAYLOAD), CONTROL_SIZE, flags | socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError as error:
        raise _hung_up() from error
    fds, foreign = ancillary.split(control)
    is_end = not data and not fds and _has_ended(sock)
    fault = _hung_up() if is_end else _find_fault(fds, foreign, got)
    if fault is not None:
        descriptors.close_all(fds)
        raise fault
    return fds[0]


def _find_fault(fds: list[int], foreign: list[tuple[int, int]], flags: int) -> ConduitError | None:
    if flags & socket.MSG_CTRUNC:
        return DescriptorsLost("descriptors were lost: too many files are open in this process")
    if flags & socket.MSG_TRUNC:
        return DescriptorsLost("the message is longer than those that a conduit sends")
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


def _has_ended(sock: socket.socket) -> bool:
    """Return whether receiving nothing means the end.  Otherwise it was an empty message, which only a stream cannot have."""
    if sock.type == socket.SOCK_STREAM:
        return True
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


def _hung_up() -> ConduitClosed:
    return ConduitClosed("the other side hung up")


def as_file(fd: int, mode: str) -> IO[Any]:
    """Return a file object of `fd` (taken, also on error), whose name is the one that the kernel knows.

    Raises WrongDescriptor for a folder, ValueError for a bad mode.
    """
    try:
        # When open() fails, it may or may not have closed the fd.  This first attempt with closefd=False never closes it.
        os.fdopen(fd, mode, closefd=False).close()
        name = _name_of(fd)
    except OSError as error:
        os.close(fd)
        raise WrongDescriptor(f"the received descriptor is no file: {error.strerror}") from error
    except BaseException:
        os.close(fd)
        raise
    return open(name, mode, opener=lambda *_: fd)


def _name_of(fd: int) -> str | int:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return fd  # There is no /proc here.


def as_socket(fd: int) -> socket.socket:
    """Return a socket object of `fd` (taken, also on error) with its family, type and protocol from the kernel.

    Raises WrongDescriptor when `fd` is not a socket.
    """
    try:
        return socket.socket(fileno=fd)
    except OSError as error:
        os.close(fd)
        raise WrongDescriptor(f"the received descriptor is no socket: {error.strerror}") from error


def _duplicate(fd: int) -> int:
    try:
        return os.dup(fd)
    except OSError as error:
        raise UnusableTransport(f"a conduit cannot duplicate the descriptor {fd}: {error.strerror}") from error
