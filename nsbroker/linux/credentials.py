"""Acting as another user on one thread: see credentials(7), setresuid(2).

The functions of the C library change the credentials of all threads of a process.  The kernel's own system calls, which
this module uses, change those of the calling thread only.  The real and the saved uid do not change, so the other user can
neither signal nor trace the thread, and the thread can switch back.  With the effective uid of another user the thread has
no effective capabilities.
"""

import contextlib
import ctypes
import errno
import os
import platform
from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from nsbroker.linux.capabilities import ALL, use_only
from nsbroker.linux.libc import check, libc

_KEEP = -1


class _Calls(NamedTuple):
    setresuid: int
    setresgid: int
    setgroups: int


_GENERIC = _Calls(147, 149, 159)
_CALLS = {"x86_64": _Calls(117, 119, 116), "aarch64": _GENERIC, "riscv64": _GENERIC}.get(platform.machine())

# A separate function object, so that the argument types are set for these calls only.
_syscall = libc["syscall"]
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_long)


class Credentials(NamedTuple):
    """The user and group to act as, in a `with` block."""

    uid: int
    gid: int

    def __enter__(self) -> None:
        """Let the calling thread act as this user, without any effective capability, until the end of the block.

        The block must not await anything, because another task would then run on this thread as the other user.  Raises
        PermissionError without CAP_SETUID and CAP_SETGID, EINVAL for ids that the user namespace does not map, and ENOSYS on
        an architecture that is not in the table of system calls.
        """
        calls = _get_calls()
        check(_syscall(calls.setresgid, _KEEP, self.gid, _KEEP))
        try:
            check(_syscall(calls.setresuid, _KEEP, self.uid, _KEEP))
            if not self._clears_capabilities():
                use_only(0)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        """Switch the calling thread back to the process's own user.

        If that fails, the whole process ends: a thread must not go on as the wrong user.
        """
        calls = _get_calls()
        # The uid comes first.  Without effective capabilities, a thread can only switch back to its saved ids.
        failed = _syscall(calls.setresuid, _KEEP, _SAVED.uid, _KEEP) or _syscall(calls.setresgid, _KEEP, _SAVED.gid, _KEEP)
        if failed:
            _end_process()
        if not self._clears_capabilities():
            use_only(ALL)

    def _clears_capabilities(self) -> bool:
        """Return whether the kernel clears the effective capabilities, and sets them again on the way back."""
        return _SAVED.uid == 0 != self.uid


_SAVED = Credentials(os.getresuid()[2], os.getresgid()[2])


def _get_calls() -> _Calls:
    if _CALLS is None:
        raise OSError(errno.ENOSYS, f"cannot act as another user: the system calls of {platform.machine()} are not known")
    return _CALLS


def _end_process() -> None:
    os.write(2, b"nsbroker: a thread could not switch back to its own user, so the process ends\n")
    os._exit(os.EX_OSERR)


@contextlib.contextmanager
def acting_groups(groups: Iterable[int]) -> Iterator[None]:
    """Let the calling thread have the supplementary groups `groups`, and no others, until the end of the block.

    A thread that may not change its groups, as in a user namespace, keeps its own, if each of them is in `groups`.  Raises
    PermissionError otherwise.  As with `Credentials`, the block must not await anything, and the process ends if the thread cannot
    switch back.
    """
    own, wanted = os.getgroups(), set(groups)
    is_changed = False
    if wanted != set(own):
        try:
            set_groups(wanted)
            is_changed = True
        except PermissionError:
            if not wanted.issuperset(own):
                raise
    try:
        yield
    finally:
        if is_changed:
            try:
                set_groups(own)
            except OSError:
                _end_process()


def set_groups(groups: Iterable[int]) -> None:
    """Set the supplementary groups of the calling thread permanently.  Requires CAP_SETGID."""
    numbers = array("I", groups)
    address, count = numbers.buffer_info()
    check(_syscall(_get_calls().setgroups, count, address, 0))
