"""Answering the socket(2) calls of another process: see seccomp(2), seccomp_unotify(2).

A process installs a filter that lets its socket(2) calls, and those of all its later children, wait for an answer of a
supervisor.  The supervisor receives each call as a `Notification` from the listener, a file descriptor.  It answers with a
descriptor of its own, with an errno, or by letting the call continue.  When nobody has the listener any more, the calls fail with
ENOSYS.

A descriptor is first installed in the other process, and then the call is answered with its number.  Before Linux 5.19 a signal
could interrupt the call in between, so both are done in one step (SECCOMP_ADDFD_FLAG_SEND), which needs Linux 5.14.
"""

import ctypes
import errno
import fcntl
import functools
import os
import select
import struct
from typing import NamedTuple

from nsbroker.linux.libc import check, libc
from nsbroker.linux.seccomp_filter import INSTRUCTION, architecture, program

_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_SET_MODE_FILTER = 1
_SPEC_ALLOW = 1 << 2  # Linux 4.17
_NEW_LISTENER = 1 << 3  # Linux 5.0
_WAIT_KILLABLE_RECV = 1 << 5  # Linux 5.19

_NOTIF_RECV = 0xC0502100
_NOTIF_SEND = 0xC0182101
_NOTIF_ID_VALID = 0x40082102
_NOTIF_ADDFD = 0x40182103  # Linux 5.9
_ADDFD_FLAG_SEND = 1 << 1  # Linux 5.14
_FLAG_CONTINUE = 1  # Linux 5.5

# id, pid, flags; then struct seccomp_data: number, architecture, instruction pointer, arguments
_NOTIF = struct.Struct("=QII iIQ6Q")
_RESPONSE = struct.Struct("=QqiI")  # id, value, error, flags
_ADDFD = struct.Struct("=QIIII")  # id, flags, our fd, number over there, its flags
_ID = struct.Struct("=Q")

# A separate function object, so that the argument types are set for this call only.
_syscall = libc["syscall"]
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p)
_prctl = libc["prctl"]
_prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


class Notification(NamedTuple):
    """A socket(2) call that waits for an answer.

    `tid` is the number of the calling thread in the receiver's PID namespace, 0 if it cannot be seen from there.  It stays the
    number of that thread as long as `is_valid` says that the notification is.
    """

    id: int
    tid: int
    family: int
    type: int
    protocol: int


def install() -> int:
    """Install the filter in the calling thread, for good, and return the listener (the caller's, close-on-exec).

    The kernel requires that the thread, and the programs that it executes, never gain privileges (PR_SET_NO_NEW_PRIVS in prctl(2)).
    Raises EBUSY when a filter with a listener is installed already, EINVAL or ENOSYS when the kernel has no seccomp filters, when
    it is older than Linux 5.14, and for an unknown architecture, and whatever the sandbox around us raises.
    """
    text, number = program(), architecture().seccomp
    check(_prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    filter_ = _Program(len(text) // INSTRUCTION.size, text)
    # SPEC_ALLOW: this is no sandbox, so the program does not need mitigations that slow it down.
    flags = _NEW_LISTENER | _SPEC_ALLOW | (_WAIT_KILLABLE_RECV if _can_wait_killable() else 0)
    listener = check(int(_syscall(number, _SECCOMP_SET_MODE_FILTER, flags, ctypes.addressof(filter_))))
    try:
        # There is no notification yet.  A kernel that does not know the flag says so before it looks for the notification.
        give(listener, 0, listener, close_on_exec=True)
    except OSError as error:
        if error.errno != errno.ENOENT:
            os.close(listener)
            raise
    return listener


@functools.cache
def _can_wait_killable() -> bool:
    """Return whether a call that was received can wait so that only a fatal signal ends its wait (Linux 5.19)."""
    result = _syscall(architecture().seccomp, _SECCOMP_SET_MODE_FILTER, _NEW_LISTENER | _WAIT_KILLABLE_RECV, None)
    # The kernel looks at the flags before it reads the filter, of which there is none.
    return result < 0 and ctypes.get_errno() == errno.EFAULT


def wait(listener: int, timeout: int | None = None) -> int:
    """Wait at most `timeout` milliseconds (None: no limit) for a notification.  Borrows `listener`.

    Returns POLLIN (a notification waits, so that `receive` does not block), POLLHUP (no process has the filter any more), 0 (time
    is over), or a union of these.  Before Linux 6.11, a process has the filter until it is reaped.
    """
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return sum(events for _, events in poll.poll(timeout))


def receive(listener: int) -> Notification:
    """SECCOMP_IOCTL_NOTIF_RECV: receive the next notification; waits until there is one.  Borrows `listener`.

    Raises ENOENT when the caller was killed or interrupted by a signal meanwhile, EINTR when a signal interrupted us.
    """
    number, tid, _, _, _, _, family, kind, protocol, _, _, _ = _NOTIF.unpack(fcntl.ioctl(listener, _NOTIF_RECV, bytes(_NOTIF.size)))
    return Notification(number, tid, _as_int(family), _as_int(kind), _as_int(protocol))


def _as_int(argument: int) -> int:
    """Return an argument as the kernel reads it where it expects an int: the lower 32 bits, signed."""
    return ctypes.c_int(argument & 0xFFFFFFFF).value


def _ioctl(listener: int, request: int, argument: bytes) -> int:
    """Make a call that a signal can interrupt while another thread uses the listener, until it is not interrupted.

    Returns what the kernel returns.
    """
    # With bytes, Python would return the argument instead.
    buffer = bytearray(argument)
    while True:
        try:
            return int(fcntl.ioctl(listener, request, buffer))
        except InterruptedError:
            continue


def is_valid(listener: int, notification: int) -> bool:
    """SECCOMP_IOCTL_NOTIF_ID_VALID: return whether the call with this id still waits.  Borrows `listener`."""
    try:
        _ioctl(listener, _NOTIF_ID_VALID, _ID.pack(notification))
    except FileNotFoundError:
        return False
    return True


def give(listener: int, notification: int, fd: int, *, close_on_exec: bool) -> None:
    """SECCOMP_IOCTL_NOTIF_ADDFD: answer the call with this id with a duplicate of `fd`.  Borrows both descriptors.  Linux 5.14.

    Raises ENOENT or ESRCH when the call no longer waits, EINPROGRESS when it was answered already, EMFILE when its process may open
    no more files (the call then still waits for an answer), EINVAL on older kernels.

    Before Linux 5.19, a signal that stops this process at the wrong moment answers the call with the number 0.
    """
    in_two_steps = _can_wait_killable()
    flags = 0 if in_two_steps else _ADDFD_FLAG_SEND
    # If a signal interrupts this without the flag, nothing was installed, so it can be repeated.
    there = _ioctl(listener, _NOTIF_ADDFD, _ADDFD.pack(notification, flags, fd, 0, os.O_CLOEXEC if close_on_exec else 0))
    if in_two_steps:
        _ioctl(listener, _NOTIF_SEND, _RESPONSE.pack(notification, there, 0, 0))


def refuse(listener: int, notification: int, number: int) -> None:
    """SECCOMP_IOCTL_NOTIF_SEND: let the call with this id fail with the errno `number`.  Borrows `listener`.

    Raises ENOENT when the call no longer waits, EINPROGRESS when it was answered already.
    """
    _ioctl(listener, _NOTIF_SEND, _RESPONSE.pack(notification, 0, -number, 0))


def let_continue(listener: int, notification: int) -> None:
    """SECCOMP_USER_NOTIF_FLAG_CONTINUE: let the kernel carry out the call with this id as usual.  Borrows `listener`.

    This is safe only because all arguments are numbers: nobody can change them meanwhile.  Raises ENOENT when the call no longer
    waits.
    """
    _ioctl(listener, _NOTIF_SEND, _RESPONSE.pack(notification, 0, 0, _FLAG_CONTINUE))
