"""Namespace file descriptors: see ioctl_ns(2) and namespaces(7)."""

import fcntl
import functools
import os
import struct
import sys

from nsbroker.linux.statx import statx

_NS_GET_USERNS = 0xB701  # Linux 4.9
_NS_GET_PARENT = 0xB702  # Linux 4.9
_NS_GET_NSTYPE = 0xB703  # Linux 4.11
_NS_GET_OWNER_UID = 0xB704  # Linux 4.11
_NS_GET_TGID_FROM_PIDNS = 0x8004B707  # Linux 6.11
_NS_GET_PID_IN_PIDNS = 0x8004B708  # Linux 6.11
_NS_GET_ID = 0x8008B70D  # Linux 6.18

_UINT = struct.Struct("=I")


@functools.cache
def device() -> int:
    """st_dev of nsfs, the one file system that all namespace files are on."""
    return os.stat("/proc/self/ns/net").st_dev


def is_namespace(fd: int) -> bool:
    """Whether `fd` (borrowed) is on nsfs.  Asking an ioctl instead could be answered by any device driver."""
    return os.fstat(fd).st_dev == device()


def identify(path_fd: int) -> tuple[int, int] | None:
    """The CLONE_NEW* flag and the inode of the namespace that `path_fd` (borrowed, O_PATH) is; None when it is no namespace.

    A network file system is not asked anew what its file is, and nothing but a namespace is opened.
    """
    facts = statx(path_fd)
    if facts.device != device():
        return None
    fd = os.open(f"/proc/self/fd/{path_fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return namespace_type(fd), facts.inode
    finally:
        os.close(fd)


def namespace_type(fd: int) -> int:
    """The CLONE_NEW* flag of a namespace."""
    return fcntl.ioctl(fd, _NS_GET_NSTYPE)


def owning_user_namespace(fd: int) -> int:
    """An fd (the caller's, close-on-exec) of the user namespace that owns this one.  EPERM: out of the caller's view."""
    return fcntl.ioctl(fd, _NS_GET_USERNS)


def parent(fd: int) -> int:
    """An fd (the caller's, close-on-exec) of the parent.  EINVAL: not a user or pid namespace.  EPERM: it is the top, or
    out of the caller's view.
    """
    return fcntl.ioctl(fd, _NS_GET_PARENT)


def owner_uid(fd: int) -> int:
    """The uid that made a user namespace.  EINVAL: not a user namespace."""
    answer = fcntl.ioctl(fd, _NS_GET_OWNER_UID, bytes(_UINT.size))
    return int(_UINT.unpack(answer)[0])


def unique_id(fd: int) -> int:
    """The kernel's 64-bit id, which is never used again, unlike an inode number.  Linux 6.18, ENOTTY before."""
    return int.from_bytes(fcntl.ioctl(fd, _NS_GET_ID, bytes(8)), sys.byteorder)


def process_from(fd: int, pid: int) -> int:
    """The number, in the caller's PID namespace, of the process that the PID namespace `fd` calls `pid`.  Linux 6.11.
    ESRCH: there is none.
    """
    return fcntl.ioctl(fd, _NS_GET_TGID_FROM_PIDNS, pid)


def pid_in(fd: int, pid: int) -> int:
    """The number, in the PID namespace `fd`, of the task that the caller's one calls `pid`.  Linux 6.11."""
    return fcntl.ioctl(fd, _NS_GET_PID_IN_PIDNS, pid)
