"""Acting as another user on one thread: see credentials(7), setresuid(2).

The C library changes the credentials of all threads of a process; the kernel's own system calls, used here, those of the
calling thread alone.  The real and the saved uid stay the process's, so the other user may neither signal nor trace it,
and the thread can come back.  With the effective uid of another user the thread has no effective capabilities.
"""

import ctypes
import errno
import os
import platform
from collections.abc import Iterable
from typing import NamedTuple

from nsbroker.linux.capabilities import use_only
from nsbroker.linux.libc import check, libc

_ALL = (1 << 64) - 1
_KEEP = -1


class _Calls(NamedTuple):
    setresuid: int
    setresgid: int
    setgroups: int


_GENERIC = _Calls(147, 149, 159)
_CALLS = {"x86_64": _Calls(117, 119, 116), "aarch64": _GENERIC, "riscv64": _GENERIC}.get(platform.machine())

# A function object of its own: argument types are set for these calls only.
_syscall = libc["syscall"]
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_long)


class Credentials(NamedTuple):
    """Who to act as."""

    uid: int
    gid: int

    def __enter__(self) -> None:
        """Let the calling thread act as this user, without any effective capability, until the end of the block.

        Nothing may be awaited within.  Raises PermissionError without CAP_SETUID and CAP_SETGID, EINVAL for ids that the
        user namespace does not map, ENOSYS on an architecture whose system calls are not known here.
        """
        calls = _known()
        check(_syscall(calls.setresgid, _KEEP, self.gid, _KEEP))
        try:
            check(_syscall(calls.setresuid, _KEEP, self.uid, _KEEP))
            if self.uid == 0:
                # Only a change from uid 0 to another one takes the capabilities away.
                use_only(0)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        """Be the process's own user again.  A thread that cannot must not go on: the process ends."""
        calls = _known()
        # The uid first: without effective capabilities only the saved ids can be taken up again.
        failed = _syscall(calls.setresuid, _KEEP, _SAVED.uid, _KEEP) or _syscall(calls.setresgid, _KEEP, _SAVED.gid, _KEEP)
        if failed:
            os.write(2, b"nsbroker: a thread cannot get its own user back: the process ends\n")
            os._exit(os.EX_OSERR)
        if self.uid == 0:
            use_only(_ALL)


_SAVED = Credentials(os.getresuid()[2], os.getresgid()[2])


def _known() -> _Calls:
    if _CALLS is None:
        raise OSError(errno.ENOSYS, f"acting as another user is not known for {platform.machine()}")
    return _CALLS


def set_groups(groups: Iterable[int]) -> None:
    """Give the calling thread these supplementary groups, for good.  Takes CAP_SETGID."""
    numbers = list(groups)
    array = (ctypes.c_uint32 * len(numbers))(*numbers)
    check(_syscall(_known().setgroups, len(numbers), ctypes.addressof(array), 0))
