"""Process file descriptors (pidfds): see pidfd_open(2) and, for the ioctls, the kernel's include/uapi/linux/pidfd.h."""

import ctypes
import errno
import fcntl
import os
import select
import struct
from typing import NamedTuple

from nsbroker.linux.libc import check, libc

PIDFD_THREAD = os.O_EXCL  # Linux 6.9
_SYS_PIDFD_GETFD = 438  # from 424 on, numbers are the same on every architecture
_PIDFD_GET_INFO = 0xC040FF0B  # Linux 6.13
_PIDFD_GET_NAMESPACE = {  # Linux 6.11, _IO(0xff, n)
    "cgroup": 0xFF01,
    "ipc": 0xFF02,
    "mnt": 0xFF03,
    "net": 0xFF04,
    "pid": 0xFF05,
    "time": 0xFF07,
    "user": 0xFF09,
    "uts": 0xFF0A,
}
# A separate function object, so that the argument types are set for this call only.
_syscall = libc["syscall"]
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_uint)
# mask, (cgroup,) pid, tgid, (parent,) real, effective, saved and file-system uid, each before its gid, (exit code)
_INFO = struct.Struct("=Q8xII4xI4xI4xI4xI8x")
_WANT_PID = 1
_WANT_CREDENTIALS = 2
_WANTED = _WANT_PID | _WANT_CREDENTIALS
_REQUEST = _INFO.pack(_WANTED, *[0] * 6)


class ProcessInfo(NamedTuple):
    """The PID and thread group id of a process or thread in the reader's PID namespace, and its uids.

    `uids` are the real, effective, saved and file-system uid.
    """

    pid: int
    tgid: int
    uids: tuple[int, ...]


def info(pidfd: int) -> ProcessInfo:
    """PIDFD_GET_INFO: return the numbers and uids of a process or thread.  Linux 6.13.

    Raises ESRCH when the process is gone (a zombie is not gone), ENOTTY on older kernels and for an fd that is not a pidfd.
    """
    mask, pid, tgid, *uids = _INFO.unpack(fcntl.ioctl(pidfd, _PIDFD_GET_INFO, _REQUEST))
    if mask & _WANTED != _WANTED:
        raise ProcessLookupError(errno.ESRCH, "the kernel no longer has the ids of this process")
    return ProcessInfo(pid, tgid, tuple(uids))


def open_namespace(pidfd: int, ns_type: str) -> int:
    """PIDFD_GET_*_NAMESPACE: open a namespace of a process or thread.  Linux 6.11.

    Returns an nsfs fd (the caller's, close-on-exec).  Raises ESRCH when the process has ended, EACCES without
    PTRACE_MODE_READ over it, ENOTTY on older kernels.
    """
    return fcntl.ioctl(pidfd, _PIDFD_GET_NAMESPACE[ns_type])


def has_ended(pidfd: int) -> bool:
    """Return whether the process (for a PIDFD_THREAD pidfd: the thread) has ended, reaped or not.

    A pidfd becomes readable at that moment.
    """
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def copy_descriptor(pidfd: int, number: int) -> int:
    """pidfd_getfd(2): duplicate the descriptor `number` of the process.  Linux 5.6.

    Returns an fd (the caller's, close-on-exec).  Raises EBADF when the process has no such descriptor, ESRCH when it has
    ended, EPERM without PTRACE_MODE_ATTACH over it.
    """
    return check(int(_syscall(_SYS_PIDFD_GETFD, pidfd, number, 0)))
