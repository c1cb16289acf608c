"""File descriptors over AF_UNIX sockets (SCM_RIGHTS): see unix(7), cmsg(3).

`socket.recv_fds` of CPython 3.11 to 3.13 ignores its flags argument and hands out inheritable descriptors, so the
calls are made by hand here: everything that arrives is close-on-exec.
"""

import array
import errno
import os
import socket
from collections.abc import Iterable, Sequence
from itertools import repeat

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


def close_and_clear(fds: list[int]) -> None:
    """Close each of `fds` and take it out of the list, both in one step.

    An exception that a signal handler raises leaves no number in the list that is closed already, nor one outside that
    is still open.  What closing reports is of no use to anybody here, unless the descriptor was not ours (EBADF).
    """
    while fds:
        try:
            # The interpreter handles signals between its own instructions, and this is a single one.
            any(map(os.close, map(fds.pop, repeat(-1, len(fds)))))
        except IndexError:
            return  # Another thread closed the rest.
        except OSError as error:
            if error.errno == errno.EBADF:
                raise


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


def receive_owned(sock: socket.socket, buffer: memoryview, fds: list[int]) -> int:
    """Receive into `buffer`: the number of bytes (0: end of file).  The descriptors that came are added to `fds`.

    An exception that a signal handler raises loses none: what arrived is in `fds` by then, which is the caller's.
    Raises as `receive_into`, and leaves in `fds` what did arrive.
    """
    before = len(fds)
    came: list[tuple[int, Ancillary, int, object]] = []
    try:
        # The interpreter handles signals between its own instructions, and this is a single one: it receives, and keeps
        # what it received.
        came.extend(map(sock.recvmsg_into, ((buffer,),), (_ROOM,), (_CMSG_CLOEXEC,)))
        ((count, control, flags, _),) = came
        if control:
            fds.extend(_descriptors(control))
    except BaseException:
        if came and len(fds) == before:
            fds.extend(_descriptors(came[0][1]))
        raise
    if flags & _CTRUNC:
        raise OSError(errno.EMFILE, "file descriptors were lost in a message: too many are open here")
    return count


def _descriptors(control: Ancillary) -> list[int]:
    """All descriptors in received control messages, whatever they came as."""
    numbers = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind in (socket.SCM_RIGHTS, _SCM_PIDFD):
            numbers.frombytes(data[: len(data) - len(data) % _INT])
    return [number for number in numbers if number >= 0]


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
