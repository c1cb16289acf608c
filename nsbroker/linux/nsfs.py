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
    """Return the st_dev of nsfs, the file system that contains all namespace files."""
    return os.stat("/proc/self/ns/net").st_dev


def is_namespace(fd: int) -> bool:
    """Return whether `fd` (borrowed) is on nsfs.

    An ioctl is no safe test, because any device driver could answer it.
    """
    return os.fstat(fd).st_dev == device()


def identify(path_fd: int) -> tuple[int, int] | None:
    """Return the CLONE_NEW* flag and the inode of the namespace `path_fd` (borrowed, O_PATH), or None for any other file.

    This never waits for a network file system, and opens nothing but a namespace.
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
    """Return the CLONE_NEW* flag of the namespace `fd` (borrowed)."""
    return fcntl.ioctl(fd, _NS_GET_NSTYPE)


def owning_user_namespace(fd: int) -> int:
    """Return an fd (the caller's, close-on-exec) of the user namespace that owns this namespace.

    Raises EPERM when the caller may not see that user namespace.
    """
    return fcntl.ioctl(fd, _NS_GET_USERNS)


def parent(fd: int) -> int:
    """Return an fd (the caller's, close-on-exec) of the parent namespace.

    Raises EINVAL when `fd` is not a user or pid namespace, and EPERM when it has no parent, or one that the caller may not see.
    """
    return fcntl.ioctl(fd, _NS_GET_PARENT)


def owner_uid(fd: int) -> int:
    """Return the uid of the user who created a user namespace.  Raises EINVAL for other namespaces."""
    uid = fcntl.ioctl(fd, _NS_GET_OWNER_UID, bytes(_UINT.size))
    return int(_UINT.unpack(uid)[0])


def unique_id(fd: int) -> int:
    """Return the kernel's 64-bit id, which is never reused, unlike an inode number.  Linux 6.18; ENOTTY on older kernels."""
    return int.from_bytes(fcntl.ioctl(fd, _NS_GET_ID, bytes(8)), sys.byteorder)


def process_from(fd: int, pid: int) -> int:
    """Translate `pid`, the number of a process in the PID namespace `fd`, into the caller's PID namespace.  Linux 6.11.

    Raises ESRCH when there is no such process.
    """
    return fcntl.ioctl(fd, _NS_GET_TGID_FROM_PIDNS, pid)


def pid_in(fd: int, pid: int) -> int:
    """Translate `pid`, the number of a task in the caller's PID namespace, into the PID namespace `fd`.  Linux 6.11."""
    return fcntl.ioctl(fd, _NS_GET_PID_IN_PIDNS, pid)
