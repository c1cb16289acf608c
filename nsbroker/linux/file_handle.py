"""File handles of namespaces: see name_to_handle_at(2).  Linux 6.18 has them for nsfs."""

import ctypes
import errno
import os
import struct
from typing import Self

from nsbroker.linux.libc import check, libc

_AT_EMPTY_PATH = 0x1000
_FD_NSFS_ROOT = -10003  # include/uapi/linux/fcntl.h
_SIZE = 64  # 16 are used
_TYPE_NSFS = 0xF1
_NSFS = struct.Struct("=QII")  # id, type, inode


class _FileHandle(ctypes.Structure):
    _fields_ = (("handle_bytes", ctypes.c_uint), ("handle_type", ctypes.c_int), ("handle", ctypes.c_ubyte * _SIZE))


class NamespaceReference:
    """A namespace that is remembered without being kept alive.  Linux 6.18."""

    __slots__ = ("_handle",)

    def __init__(self, handle: _FileHandle) -> None:
        """Use `of`."""
        self._handle = handle

    @classmethod
    def of(cls, fd: int) -> Self | None:
        """A reference to the namespace `fd` (borrowed); None where the kernel has none, or lets us not see all namespaces."""
        try:
            reference = cls(_handle_of(fd))
            os.close(reference._open())
        except OSError:
            return None
        return reference

    def exists(self) -> bool:
        """Whether it still exists."""
        try:
            os.close(self._open())
        except OSError as error:
            return error.errno not in (errno.ESTALE, errno.ENOENT)
        return True

    def _open(self) -> int:
        return check(libc.open_by_handle_at(_FD_NSFS_ROOT, ctypes.byref(self._handle), os.O_RDONLY | os.O_CLOEXEC))


def reopen_namespace(fd: int) -> int:
    """Another fd (the caller's, close-on-exec) of the namespace `fd` (borrowed), by way of nsfs itself.

    One that was opened through a bind mount keeps that mount busy, and is shown under the mount's path.  Raises
    EOPNOTSUPP, EBADF and the like on older kernels, EPERM without the right to see all namespaces.
    """
    handle = _handle_of(fd)
    return check(libc.open_by_handle_at(_FD_NSFS_ROOT, ctypes.byref(handle), os.O_RDONLY | os.O_CLOEXEC))


def namespace_at(path_fd: int) -> tuple[int, int] | None:
    """The CLONE_NEW* flag and the inode of the namespace that `path_fd` (borrowed, O_PATH) is; None when it is something
    else.  No file system is asked anything.  Raises EOPNOTSUPP on older kernels.
    """
    handle = _handle_of(path_fd)
    if handle.handle_type != _TYPE_NSFS or handle.handle_bytes < _NSFS.size:
        return None
    _, kind, inode = _NSFS.unpack_from(bytes(handle.handle))
    return int(kind), int(inode)


def _handle_of(fd: int) -> _FileHandle:
    handle = _FileHandle(handle_bytes=_SIZE)
    mount = ctypes.c_int()
    check(libc.name_to_handle_at(fd, b"", ctypes.byref(handle), ctypes.byref(mount), _AT_EMPTY_PATH))
    return handle
