"""File descriptors over AF_UNIX sockets (SCM_RIGHTS): see unix(7), cmsg(3).

`socket.recv_fds` of CPython 3.11 to 3.13 ignores its flags argument and hands out inheritable descriptors, so the
calls are made by hand here: everything that arrives is close-on-exec.
"""

import array
import errno
import os
import socket
from collections.abc import Iterable, Sequence

SCM_MAX_FD = 253
"""The most descriptors that one message can carry (one more: EINVAL)."""

_SCM_PIDFD = 4
# As plain integers: operators on the socket module's enumerations cost more than a system call.
_CTRUNC = int(socket.MSG_CTRUNC)
_PEEK = int(socket.MSG_PEEK)
_CMSG_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
_NOSIGNAL = int(socket.MSG_NOSIGNAL)
_INT = array.array("i").itemsize
_ROOM = socket.CMSG_SPACE(SCM_MAX_FD * _INT)

Ancillary = list[tuple[int, int, bytes]]


def close_all(fds: Iterable[int]) -> None:
    """Close each of `fds` (owned)."""
    for fd in fds:
        os.close(fd)


def send(sock: socket.socket, data: bytes | memoryview, fds: Sequence[int] = ()) -> int:
    """Send `data`, its first byte carrying `fds` (borrowed); the number of bytes that went."""
    if not fds:
        return sock.send(data, _NOSIGNAL)
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    return sock.sendmsg((data,), (rights,), _NOSIGNAL)


def split(control: Ancillary) -> tuple[list[int], list[tuple[int, int]]]:
    """The descriptors (now the caller's) in received control messages, and level and type of all other ones.

    A pidfd that came by SCM_PIDFD, which nobody here asks for, is closed.
    """
    fds: list[int] = []
    others: list[tuple[int, int]] = []
    for level, kind, data in control:
        numbers = array.array("i")
        if level == socket.SOL_SOCKET and kind in (socket.SCM_RIGHTS, _SCM_PIDFD):
            numbers.frombytes(data[: len(data) - len(data) % _INT])
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.extend(numbers)
        else:
            close_all(number for number in numbers if number >= 0)
            others.append((level, kind))
    return fds, others


def receive_into(sock: socket.socket, buffer: memoryview) -> tuple[int, list[int]]:
    """Receive into `buffer`: the number of bytes (0: end of file) and the descriptors (now the caller's).

    Raises OSError as recvmsg(2), and EMFILE when descriptors were lost on the way (MSG_CTRUNC): at RLIMIT_NOFILE the
    payload arrives with some of them or none.  What did arrive is closed then.
    """
    count, control, flags, _ = sock.recvmsg_into((buffer,), _ROOM, _CMSG_CLOEXEC)
    if not control and not flags & _CTRUNC:
        return count, []
    fds, _ = split(control)
    if flags & _CTRUNC:
        close_all(fds)
        raise OSError(errno.EMFILE, "file descriptors were lost in a message: too many are open here")
    return count, fds


def receive_piece(sock: socket.socket, buffer: bytearray, end: bytes) -> tuple[bytes, list[int]]:
    """Receive at most one buffer full such that descriptors (now the caller's) belong to the first byte of the piece.

    The kernel glues earlier bytes without descriptors to a following message with some, and stops only after that one.
    So look first: peeking without a control buffer installs none, and MSG_CTRUNC tells that some wait.  Only then is
    the piece cut after the first `end`.  Raises as `receive_into`; no bytes: end of file.
    """
    count, _, flags, _ = sock.recvmsg_into((buffer,), 0, _PEEK)
    if not flags & _CTRUNC:
        # No descriptor is among these bytes, so none can get lost without a control buffer.
        count = sock.recv_into(buffer, count) if count else 0
        return bytes(memoryview(buffer)[:count]), []
    count = buffer.find(end, 0, count) + 1 or count
    count, fds = receive_into(sock, memoryview(buffer)[:count])
    return bytes(memoryview(buffer)[:count]), fds
