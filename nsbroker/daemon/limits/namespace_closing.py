"""Closing handles of namespaces that were opened for a user, because closing one of a mount namespace can block the event loop.

Whoever closes the last descriptor of a mount namespace waits until the kernel has unmounted everything in it: it frees what a
tmpfs contains, and writes back what other file systems have not stored.  The user who made the mounts decides how long that takes.
So these handles are closed on the threads of `Closer`, except those of mount namespaces that exist as long as the broker.  The
kernel ends all other namespaces in the background.
"""

import contextlib
import functools
import os
from collections.abc import Iterable

from nsbroker.linux.closing import Closer
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace

SLOW_TYPES = frozenset((NamespaceType.MNT,))


def slow_fds(fds: Iterable[int], ns_types: Iterable[NamespaceType]) -> list[int]:
    """Return those of `fds`, which are of namespaces of these types, one each, whose closing can block."""
    slow = (fd for fd, ns_type in zip(fds, ns_types, strict=False) if ns_type in SLOW_TYPES)
    return [fd for fd in slow if os.fstat(fd).st_ino not in _lasting()]


def close_namespaces(namespaces: Iterable[Namespace], closer: Closer, user: int) -> None:
    """Close the handles (taken), which were opened for `user`: on a thread of `closer` where that can block.

    Closing a handle twice does nothing.
    """
    for ns in namespaces:
        if ns.type in SLOW_TYPES and not ns.closed and ns.inode not in _lasting():
            closer.close(ns.detach(), user)
        else:
            ns.close()


@functools.cache
def _lasting() -> frozenset[int]:
    """Return the inodes of the mount namespaces of the broker and, if that may be read, of process 1: they outlive handles."""
    found = set()
    for process in ("self", "1"):
        with contextlib.suppress(OSError):
            found.add(os.stat(f"/proc/{process}/ns/mnt").st_ino)
    return frozenset(found)
