"""Entering a new user namespace as the same user: see user_namespaces(7)."""

import errno
import os
from pathlib import Path

from nsbroker.linux.setns import CLONE_NEWUSER, unshare

# Settings with which distributions forbid new user namespaces, and the value that does so.
_SWITCHES = {
    "kernel.unprivileged_userns_clone": "0",
    "kernel.apparmor_restrict_unprivileged_userns": "1",
    "user.max_user_namespaces": "0",
}


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
