"""Which network namespaces are the host's own, in which the broker makes sockets for nobody's process.

A process that has no network of its own is in the host's: a rule for that process, `own` above all, was not meant to give
raw sockets there.
"""

import os

from nsbroker.errors import NsbrokerError
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace

# The kernel's include/linux/proc_ns.h: the first user namespace always has this number.
_FIRST_USER_NAMESPACE = 0xEFFFFFFD


class HostNetworks:
    """The broker's own network namespace, and that of the host's first process.

    The link /proc/1/ns/net is not for everyone to read, not even for root in a container.  But each network namespace has
    files of its own in /proc/PID/net, whose inodes anybody may compare (proc_pid_net(5)).
    """

    def __init__(self) -> None:
        self._own = os.stat("/proc/self/ns/net").st_ino
        self._first = _files_of("/proc/1")

    def may_be(self, space: Namespace) -> bool:
        """Whether `space` (borrowed), in which the calling thread is, is the host's network, or could be.

        Where the first process cannot be seen at all, only a network that another user namespace than the first owns is
        surely not the host's.
        """
        if space.inode == self._own:
            return True
        here = _files_of("/proc/thread-self")
        if here is not None and self._first is not None:
            return here == self._first
        return not _is_surely_not_the_hosts(space)


def _files_of(process: str) -> int | None:
    """The inode of one of the files of a process's network."""
    try:
        return os.stat(f"{process}/net/dev").st_ino
    except OSError:
        return None


def _is_surely_not_the_hosts(space: Namespace) -> bool:
    """The host's network is owned by the first user namespace, or by one that is out of sight from here."""
    try:
        with space.owner() as owner:
            return owner.type is NamespaceType.USER and owner.inode != _FIRST_USER_NAMESPACE
    except (NsbrokerError, OSError):
        return False
