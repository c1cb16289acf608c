"""Find out whether a network namespace is the host's own.  The broker makes nothing there unless a rule names that very network.

A process without a network namespace of its own is in the host's, and a user can hold the host's network under a name.  A rule for
that process or name, especially a rule for `own`, was not meant to allow raw sockets in the host's network.
"""

import os

from nsbroker.daemon.targets.pinned import Pinned
from nsbroker.errors import NoSuchTarget, NsbrokerError
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace

# The initial user namespace always has this inode number (the kernel's include/linux/proc_ns.h).
_FIRST_USER_NAMESPACE = 0xEFFFFFFD
# At most this many other networks are remembered.
_OTHERS_MAX = 1024


class HostNetworks:
    """The host's network namespaces: the broker's own, and that of process 1.

    The link /proc/1/ns/net is not readable for everyone, not even for root in a container.  But each network namespace has its
    own files in /proc/PID/net, and everyone may compare their inodes (proc_pid_net(5)).
    """

    def __init__(self) -> None:
        self._own = os.stat("/proc/self/ns/net").st_ino
        self._first = _net_inode("/proc/1")
        # Inodes of networks that are not the host's.  The host's network exists all the time, so it can never have one of them.
        self._others: set[int] = set()

    def check(self, pinned: Pinned, ns: Namespace, hint: str) -> None:
        """Check that `ns` (borrowed), the network of `pinned`, is not the host's, unless a rule names that network itself.

        The calling thread must be inside `ns`.

        Raises NoSuchTarget, which ends with `hint`: what to do instead.
        """
        if not pinned.network_is_named and self.may_be(ns):
            alone = "it is the host's network"
            what = "it has no network namespace of its own, but uses the host's" if pinned.is_process else alone
            raise NoSuchTarget(pinned.target, f"{what}: {hint}")

    def may_be(self, ns: Namespace) -> bool:
        """Return whether `ns` (borrowed) is the host's network, or could be.  The calling thread must be inside `ns`.

        Where /proc does not show process 1 at all, a network namespace is certainly not the host's only if its owner is another
        user namespace than the initial one.
        """
        if ns.inode in self._others:
            return False
        if ns.inode == self._own or self._may_be_first(ns):
            return True
        if len(self._others) >= _OTHERS_MAX:
            self._others.clear()
        self._others.add(ns.inode)
        return False

    def _may_be_first(self, ns: Namespace) -> bool:
        here = _net_inode("/proc/thread-self")
        if here is not None and self._first is not None:
            return here == self._first
        return not _has_other_owner(ns)


def _net_inode(process: str) -> int | None:
    """Return the inode of /proc/PID/net/dev for the process, which is different in each network namespace; None if unreadable."""
    try:
        return os.stat(f"{process}/net/dev").st_ino
    except OSError:
        return None


def _has_other_owner(ns: Namespace) -> bool:
    """Return whether `ns` is owned by a user namespace that we can see, and that is not the initial one.

    The host's network namespace is owned by the initial user namespace, or by one that cannot be seen from here.
    """
    try:
        with ns.owner() as owner:
            return owner.type is NamespaceType.USER and owner.inode != _FIRST_USER_NAMESPACE
    except (NsbrokerError, OSError):
        return False
