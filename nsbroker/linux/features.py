"""The features of the running kernel, found once by trying each on our own process."""

import contextlib
import functools
import os
import socket
import threading
from collections.abc import Callable
from typing import NamedTuple

from nsbroker.linux import nsfs, pidfd, socket_options
from nsbroker.linux.descriptors import close_all


class Features(NamedTuple):
    """Flags of newer kernels: each is true where the kernel has the feature.  The oldest supported Linux, 5.10, has none."""

    peer_pidfd: bool = False
    """SO_PEERPIDFD, Linux 6.5: the peer's process, without a race."""
    pidfd_thread: bool = False
    """PIDFD_THREAD, Linux 6.9: a pidfd of a single thread."""
    pidfd_namespaces: bool = False
    """PIDFD_GET_*_NAMESPACE, Linux 6.11: a namespace from a pidfd, without /proc."""
    pid_translation: bool = False
    """NS_GET_TGID_FROM_PIDNS and related ioctls, Linux 6.11: translating PIDs of another PID namespace."""
    pidfd_info: bool = False
    """PIDFD_GET_INFO, Linux 6.13: credentials from a pidfd, without /proc."""
    namespace_id: bool = False
    """NS_GET_ID, Linux 6.18: an id of a namespace that is never reused."""


def _works(step: Callable[[], object]) -> bool:
    with contextlib.suppress(OSError):
        step()
        return True
    return False


@functools.cache
def features() -> Features:
    """Return the features of the running kernel.  Closes everything that it opens."""
    own = os.pidfd_open(os.getpid())
    ns = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    left, right = socket.socketpair(socket.AF_UNIX)
    opened: list[int] = []
    try:
        return Features(
            peer_pidfd=_works(lambda: opened.append(socket_options.peer_pidfd(left))),
            pidfd_thread=_works(lambda: opened.append(os.pidfd_open(threading.get_native_id(), pidfd.PIDFD_THREAD))),
            pidfd_namespaces=_works(lambda: opened.append(pidfd.open_namespace(own, "net"))),
            pid_translation=_works(lambda: nsfs.pid_in(ns, os.getpid())),
            pidfd_info=_works(lambda: pidfd.info(own)),
            namespace_id=_works(lambda: nsfs.unique_id(ns)),
        )
    finally:
        close_all([own, ns, *opened])
        left.close()
        right.close()
