"""File handles of namespaces: see name_to_handle_at(2).  nsfs has had them since Linux 6.18."""

import ctypes
import errno
import os
import struct
from typing import Self

from nsbroker.linux.libc import check, libc

_AT_EMPTY_PATH = 0x1000
_FD_NSFS_ROOT = -10003  # include/uapi/linux/fcntl.h
_SIZE = 64  # nsfs uses 16 bytes
_TYPE_NSFS = 0xF1
_NSFS = struct.Struct("=QII")  # id, type, inode


class _FileHandle(ctypes.Structure):
    _fields_ = (("handle_bytes", ctypes.c_uint), ("handle_type", ctypes.c_int), ("handle", ctypes.c_ubyte * _SIZE))


class NamespaceReference:
    """A reference to a namespace that does not keep it alive.  Linux 6.18."""

    __slots__ = ("_handle",)

    def __init__(self, handle: _FileHandle) -> None:
        """Do not call this: use `of`."""
        self._handle = handle

    @classmethod
    def of(cls, fd: int) -> Self | None:
        """Return a reference to the namespace `fd` (borrowed).

        Returns None on older kernels, and where this process may not see all namespaces.
        """
        try:
            reference = cls(_handle_of(fd))
            os.close(reference._open())
        except OSError:
            return None
        return reference

    def exists(self) -> bool:
        """Return whether the namespace still exists."""
        try:
            os.close(self._open())
        except OSError as error:
            return error.errno not in (errno.ESTALE, errno.ENOENT)
        return True

    def _open(self) -> int:
        return check(libc.open_by_handle_at(_FD_NSFS_ROOT, ctypes.byref(self._handle), os.O_RDONLY | os.O_CLOEXEC))


def reopen_namespace(fd: int) -> int:
    """Open the namespace `fd` (borrowed) again, through nsfs itself, and return the new fd (the caller's, close-on-exec).

    An fd that was opened through a bind mount keeps that mount busy, and its link in /proc shows the mount's path; the new
    fd does neither.  Raises EOPNOTSUPP, EBADF or similar on older kernels, EPERM without the right to see all namespaces.
    """
    handle = _handle_of(fd)
    return check(libc.open_by_handle_at(_FD_NSFS_ROOT, ctypes.byref(handle), os.O_RDONLY | os.O_CLOEXEC))


def namespace_at(path_fd: int) -> tuple[int, int] | None:
    """Return the CLONE_NEW* flag and the inode of the namespace `path_fd` (borrowed, O_PATH), or None for any other file.

    This never waits for a file system.  Raises EOPNOTSUPP on older kernels.
    """
    handle = _handle_of(path_fd)
    if handle.handle_type != _TYPE_NSFS or handle.handle_bytes < _NSFS.size:
        return None
    _, flag, inode = _NSFS.unpack_from(bytes(handle.handle))
    return int(flag), int(inode)


def _handle_of(fd: int) -> _FileHandle:
    handle = _FileHandle(handle_bytes=_SIZE)
    mount = ctypes.c_int()
    check(libc.name_to_handle_at(fd, b"", ctypes.byref(handle), ctypes.byref(mount), _AT_EMPTY_PATH))
    return handle
