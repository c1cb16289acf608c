"""User namespaces: which uids ours has, and entering a new one as the same user.  See user_namespaces(7)."""

import errno
import functools
import os
from pathlib import Path

from nsbroker.linux.setns import CLONE_NEWUSER, unshare

# Settings with which distributions forbid new user namespaces, and the value that does so.
_SWITCHES = {
    "kernel.unprivileged_userns_clone": "0",
    "kernel.apparmor_restrict_unprivileged_userns": "1",
    "user.max_user_namespaces": "0",
}

_ALL_UIDS = ["0", "0", "4294967295"]


@functools.cache
def maps_every_uid() -> bool:
    """Return whether our user namespace maps every uid, so that no two uids look the same to us."""
    return Path("/proc/self/uid_map").read_text(encoding="ascii").split() == _ALL_UIDS


@functools.cache
def overflow_uid() -> int:
    """Return the uid that the kernel shows for uids that our user namespace does not map."""
    return int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii"))


def enter_new(flags: int) -> None:
    """Move the calling process, which has one thread, into a new user namespace, and new ones of the types `flags` (CLONE_NEW*).

    Its user and group keep their numbers there, and it has all capabilities there until it executes a program.  There is no way
    back, also when an error is raised: EPERM or EACCES where this is not allowed, ENOSPC at the limit for user namespaces, EINVAL
    with several threads or without the feature.
    """
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | flags)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            # The kernel takes a whole map at once.
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def why_refused(error: OSError) -> str:
    """Return why `enter_new` failed, with the setting that forbids it, if one does."""
    for name, value in _SWITCHES.items():
        try:
            found = Path("/proc/sys", *name.split(".")).read_text().strip()
        except OSError:
            continue
        if found == value:
            return f"user namespaces are not allowed here ({name} is {value})"
    if error.errno == errno.ENOSPC:
        return "the limit for user namespaces is reached (user.max_user_namespaces)"
    return f"user namespaces are not allowed here ({error.strerror})"
