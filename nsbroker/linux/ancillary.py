"""Sending and receiving file descriptors over AF_UNIX sockets (SCM_RIGHTS): see unix(7), cmsg(3).

In CPython 3.11 to 3.13, `socket.recv_fds` ignores its flags argument and returns inheritable descriptors.  This module
therefore calls sendmsg and recvmsg itself, and everything that it receives is close-on-exec.
"""

import array
import errno
import socket
from collections.abc import Sequence

from nsbroker.linux.descriptors import close_all

SCM_MAX_FD = 253
"""The largest number of descriptors that one message can carry (one more: EINVAL)."""

_SCM_PIDFD = 4
# Plain integers, because an operator on the socket module's enumerations costs more than a system call.
_CTRUNC = int(socket.MSG_CTRUNC)
_PEEK = int(socket.MSG_PEEK)
_CMSG_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
_NOSIGNAL = int(socket.MSG_NOSIGNAL)
_INT = array.array("i").itemsize
_CONTROL_SIZE = socket.CMSG_SPACE(SCM_MAX_FD * _INT)

Ancillary = list[tuple[int, int, bytes]]


def send(sock: socket.socket, data: bytes | memoryview, fds: Sequence[int] = (), flags: int = 0) -> int:
    """Send `data` with `fds` (borrowed) attached to its first byte.  Return the number of bytes that were sent.

    `flags` are those of sendmsg(2); MSG_NOSIGNAL is always set.
    """
    if not fds:
        return sock.send(data, _NOSIGNAL | flags)
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    return sock.sendmsg((data,), (rights,), _NOSIGNAL | flags)


def split(control: Ancillary) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the descriptors (now the caller's) in received control messages, and the level and type of all other messages.

    A pidfd that came as SCM_PIDFD is closed: nothing here requests one.
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
    """Receive into `buffer`.  Return the number of bytes (0: end of file) and the descriptors (now the caller's).

    Raises OSError as recvmsg(2) does, and EMFILE when descriptors were lost (MSG_CTRUNC): at RLIMIT_NOFILE the payload
    arrives with only some of its descriptors or with none.  Those that did arrive are then closed.
    """
    count, control, flags, _ = sock.recvmsg_into((buffer,), _CONTROL_SIZE, _CMSG_CLOEXEC)
    if not control and not flags & _CTRUNC:
        return count, []
    fds, _ = split(control)
    if flags & _CTRUNC:
        close_all(fds)
        raise OSError(errno.EMFILE, "file descriptors were lost in a message: too many are open here")
    return count, fds


def receive_owned(sock: socket.socket, buffer: memoryview, fds: list[int]) -> int:
    """Receive into `buffer`, append the received descriptors to `fds`, and return the number of bytes (0: end of file).

    The caller owns `fds`.  No descriptor is lost when a signal handler raises an exception: those that arrived are already
    in `fds`.  Raises as `receive_into` does, but leaves the descriptors that did arrive in `fds`.
    """
    before = len(fds)
    received: list[tuple[int, Ancillary, int, object]] = []
    try:
        # The interpreter runs signal handlers only between its own instructions.  This is a single instruction, which both
        # receives and stores what it received.
        received.extend(map(sock.recvmsg_into, ((buffer,),), (_CONTROL_SIZE,), (_CMSG_CLOEXEC,)))
        ((count, control, flags, _),) = received
        if control:
            fds.extend(_descriptors(control))
    except BaseException:
        if received and len(fds) == before:
            fds.extend(_descriptors(received[0][1]))
        raise
    if flags & _CTRUNC:
        raise OSError(errno.EMFILE, "file descriptors were lost in a message: too many are open here")
    return count


def _descriptors(control: Ancillary) -> list[int]:
    """Return all descriptors in received control messages: those of SCM_RIGHTS and of SCM_PIDFD."""
    numbers = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind in (socket.SCM_RIGHTS, _SCM_PIDFD):
            numbers.frombytes(data[: len(data) - len(data) % _INT])
    return [number for number in numbers if number >= 0]


def receive_piece(sock: socket.socket, buffer: bytearray, end: bytes) -> tuple[bytes, list[int]]:
    """Receive at most one buffer of bytes, and the descriptors (now the caller's) that belong to the first of these bytes.

    The kernel returns bytes that came without descriptors together with the following message that has some, and stops only
    after that message.  This function therefore peeks first.  Peeking without a control buffer installs no descriptors, and
    MSG_CTRUNC shows that some are waiting.  Only then does the function receive no further than the first `end`.

    Raises as `receive_into` does.  No bytes mean end of file.
    """
    count, _, flags, _ = sock.recvmsg_into((buffer,), 0, _PEEK)
    if not flags & _CTRUNC:
        # These bytes come without descriptors, so none can get lost without a control buffer.
        count = sock.recv_into(buffer, count) if count else 0
        return bytes(memoryview(buffer)[:count]), []
    count = buffer.find(end, 0, count) + 1 or count
    count, fds = receive_into(sock, memoryview(buffer)[:count])
    return bytes(memoryview(buffer)[:count]), fds
