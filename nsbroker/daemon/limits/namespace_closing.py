"""Closing handles of namespaces that were opened for a user, because closing one of a mount namespace can block the event loop.

Whoever closes the last descriptor of a mount namespace waits until the kernel has unmounted everything in it: it frees what a
tmpfs contains, and writes back what other file systems have not stored.  The user who made the mounts decides how long that takes.
So these handles are closed on the threads of `Closer`.  The kernel ends all other namespaces in the background.
"""

from collections.abc import Iterable

from nsbroker.linux.closing import Closer
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace


def closing_can_block(ns_types: Iterable[NamespaceType]) -> bool:
    """Return whether closing a namespace of one of these types can block."""
    return NamespaceType.MNT in ns_types


def close_namespaces(namespaces: Iterable[Namespace], closer: Closer, user: int) -> None:
    """Close the handles (taken), which were opened for `user`: on a thread of `closer` where that can block.

    Closing a handle twice does nothing.
    """
    for ns in namespaces:
        if closing_can_block((ns.type,)) and not ns.closed:
            closer.close(ns.detach(), user)
        else:
            ns.close()
