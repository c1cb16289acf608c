"""The network namespaces of other processes' sockets: pidfd_getfd(2), Linux 5.6, and SIOCGSKNS.

A copy of another user's socket is only asked where it lives.  Closing the copy can be the last close of that socket, and
then take as long as its owner set it to linger: such a copy is closed on a thread.
"""

import os
from collections.abc import Iterable, Iterator

from nsbroker.linux import pidfd as _pidfd
from nsbroker.linux.closing import Closer
from nsbroker.linux.process import real_user
from nsbroker.linux.socket_options import lingers, network_namespace

_closer = Closer()


def networks(pid: int, numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Each of the process's sockets (`numbers`) with the inode of its network namespace.

    Sockets that are gone, or may not be looked at (PTRACE_MODE_ATTACH, CAP_NET_ADMIN), are left out, and so are those of a
    user whose sockets already keep threads waiting that close them.
    """
    pidfd = -1
    user = -1
    try:
        for number in numbers:
            if pidfd < 0:
                pidfd = os.pidfd_open(pid)
                user = real_user(pid)
            if _closer.is_full(user):
                return
            inode = _network(pidfd, number, user)
            if inode is not None:
                yield number, inode
    except ProcessLookupError:
        return
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def open_network(pid: int, number: int) -> int:
    """An nsfs fd (the caller's, close-on-exec) of the network namespace of one socket.  Raises OSError."""
    pidfd = os.pidfd_open(pid)
    try:
        user = real_user(pid)
        copy = _copy(pidfd, number, user)
        try:
            return network_namespace(copy)
        finally:
            _close(copy, user)
    finally:
        os.close(pidfd)


def _network(pidfd: int, number: int, user: int) -> int | None:
    try:
        copy = _copy(pidfd, number, user)
    except OSError:
        return None
    try:
        space = network_namespace(copy)
        try:
            return os.fstat(space).st_ino
        finally:
            os.close(space)
    except OSError:
        return None
    finally:
        _close(copy, user)


def _copy(pidfd: int, number: int, user: int) -> int:
    """A copy (the caller's) of what is a socket still.  Raises OSError."""
    copy = _pidfd.copy_descriptor(pidfd, number)
    # Asking a file what it is could wait for its file system; its link does not.
    if not os.readlink(f"/proc/self/fd/{copy}").startswith("socket:"):
        _closer.close(copy, user)
        raise OSError("no longer a socket")
    return copy


def _close(copy: int, user: int) -> None:
    if lingers(copy):
        _closer.close(copy, user)
    else:
        os.close(copy)
