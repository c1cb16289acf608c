"""setns(2) and unshare(2): moving the calling thread.  Python has them from 3.12 on; libc always."""

import ctypes
import os

CLONE_FS = 0x00000200
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def setns(fd: int, flag: int) -> None:
    """Move the calling thread into the namespace `fd` (borrowed).

    `flag` is its CLONE_NEW* flag, never 0: RestrictNamespaces= of systemd filters by it.  EINVAL: another type, a mount
    namespace while the thread shares its root with others (unshare CLONE_FS first), a user namespace from a process
    with threads.  EPERM: no CAP_SYS_ADMIN over it.
    """
    _check(_libc.setns(fd, flag))


def unshare(flags: int) -> None:
    """Give the calling thread new namespaces of its own (CLONE_NEW*), or a root and current directory (CLONE_FS)."""
    _check(_libc.unshare(flags))
