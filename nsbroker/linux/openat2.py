"""openat2(2): opening a path with rules for its resolution.  Linux 5.6; Python has no function for it."""

import ctypes
import os

from nsbroker.linux.libc import check, libc

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

AT_FDCWD = -100
_SYS_OPENAT2 = 437  # from 424 on, numbers are the same on every architecture


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


# A separate function object, so that the argument types are set for this call only.
_syscall = libc["syscall"]
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_OpenHow), ctypes.c_size_t)


def openat2(path: str, flags: int, *, resolve: int, dir_fd: int = AT_FDCWD) -> int:
    """Open `path`, relative to the folder `dir_fd` (borrowed), and return the fd (the caller's, close-on-exec).

    Raises ELOOP for a link that `resolve` forbids, and the errors of open(2).
    """
    how = _OpenHow(flags=flags | os.O_CLOEXEC, mode=0, resolve=resolve)
    return check(int(_syscall(_SYS_OPENAT2, dir_fd, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))), path)
