"""setns(2) and unshare(2): moving the calling thread.  Python has them from 3.12 on; libc always."""

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

    `flag` is its CLONE_NEW* flag, never 0: RestrictNamespaces= of systemd filters by it.  EINVAL: another type, a mount
    namespace while the thread shares its root with others (unshare CLONE_FS first), a user namespace from a process
    with threads.  EPERM: no CAP_SYS_ADMIN over it.
    """
    check(libc.setns(fd, flag))


def unshare(flags: int) -> None:
    """Give the calling thread new namespaces of its own (CLONE_NEW*), or a root and current directory (CLONE_FS)."""
    check(libc.unshare(flags))
