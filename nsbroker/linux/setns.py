"""setns(2) and unshare(2): moving the calling thread into other namespaces.

Python has these functions only since 3.12, so they are called in libc.
"""

import ctypes

from nsbroker.linux.libc import check, libc

CLONE_FS = 0x00000200
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
libc.unshare.argtypes = (ctypes.c_int,)


def setns(fd: int, flag: int) -> None:
    """Move the calling thread into the namespace `fd` (borrowed).

    `flag` is its CLONE_NEW* flag, never 0, because systemd's RestrictNamespaces= filters by it.  Raises EINVAL for another
    type, for a mount namespace while the thread shares its root with others (unshare CLONE_FS first), and for a user
    namespace in a process with several threads.  Raises EPERM without CAP_SYS_ADMIN over the namespace.
    """
    check(libc.setns(fd, flag))


def unshare(flags: int) -> None:
    """Give the calling thread new namespaces (CLONE_NEW*), or a root and current directory of its own (CLONE_FS)."""
    check(libc.unshare(flags))
