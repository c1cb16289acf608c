"""Finding the network namespaces of other processes' sockets: pidfd_getfd(2), Linux 5.6, and SIOCGSKNS.

A copy of another user's socket is used only to ask for its network namespace.  Closing the copy can be the last close of
that socket, which can then take as long as its owner set it to linger.  Such a copy is closed on a thread.
"""

import os
from collections.abc import Iterable, Iterator

from nsbroker.linux import pidfd as _pidfd
from nsbroker.linux.closing import Closer
from nsbroker.linux.process import real_user
from nsbroker.linux.socket_options import lingers, network_namespace

_closer = Closer()


def networks(pid: int, numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the number of each of the process's sockets (`numbers`) with the inode of its network namespace.

    Sockets that are gone are left out, and those that this process may not inspect (PTRACE_MODE_ATTACH, CAP_NET_ADMIN).
    The iteration ends early for a user with too many sockets that still wait to be closed.
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
            inode = _read_network(pidfd, number, user)
            if inode is not None:
                yield number, inode
    except ProcessLookupError:
        return
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def open_network(pid: int, number: int) -> int:
    """Open the network namespace of one socket of a process, and return the nsfs fd (the caller's, close-on-exec).

    Raises OSError.
    """
    pidfd = os.pidfd_open(pid)
    try:
        user = real_user(pid)
        copy = _copy_socket(pidfd, number, user)
        try:
            return network_namespace(copy)
        finally:
            _close_copy(copy, user)
    finally:
        os.close(pidfd)


def _read_network(pidfd: int, number: int, user: int) -> int | None:
    try:
        copy = _copy_socket(pidfd, number, user)
    except OSError:
        return None
    try:
        ns = network_namespace(copy)
        try:
            return os.fstat(ns).st_ino
        finally:
            os.close(ns)
    except OSError:
        return None
    finally:
        _close_copy(copy, user)


def _copy_socket(pidfd: int, number: int, user: int) -> int:
    """Copy the descriptor `number`, if it is still a socket, and return the copy (the caller's).  Raises OSError."""
    copy = _pidfd.copy_descriptor(pidfd, number)
    # fstat(2) of another file could wait for its file system.  Reading its link cannot.
    if not os.readlink(f"/proc/self/fd/{copy}").startswith("socket:"):
        _closer.close(copy, user)
        raise OSError("the descriptor is no longer a socket")
    return copy


def _close_copy(copy: int, user: int) -> None:
    if lingers(copy):
        _closer.close(copy, user)
    else:
        os.close(copy)
