"""Closing handles of namespaces that were opened for a user, because closing one of a mount namespace can block the event loop.

Whoever closes the last descriptor of a mount namespace waits until the kernel has unmounted everything in it: it frees what a
tmpfs contains, and writes back what other file systems have not stored.  The user who made the mounts decides how long that takes.
So these handles are closed on the threads of `Closer`.  The kernel ends all other namespaces in the background.
"""

from collections.abc import Iterable

from nsbroker.linux.closing import Closer
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace

SLOW_TYPES = frozenset((NamespaceType.MNT,))


def slow_fds(fds: Iterable[int], ns_types: Iterable[NamespaceType]) -> list[int]:
    """Return those of `fds`, which are of namespaces of these types, one each, whose closing can block."""
    return [fd for fd, ns_type in zip(fds, ns_types, strict=False) if ns_type in SLOW_TYPES]


def close_namespaces(namespaces: Iterable[Namespace], closer: Closer, user: int) -> None:
    """Close the handles (taken), which were opened for `user`: on a thread of `closer` where that can block.

    Closing a handle twice does nothing.
    """
    for ns in namespaces:
        if ns.type in SLOW_TYPES and not ns.closed:
            closer.close(ns.detach(), user)
        else:
            ns.close()
