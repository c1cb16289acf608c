"""Closing what peers sent, away from the event loop.

Closing a descriptor can take as long as whoever made it likes: a socket that lingers, a file of a file system of theirs.
A peer has no business to send anything but pidfds, whose closing is harmless; all else is closed on threads of its own.
"""

import contextlib
import os
import queue
import socket
import sys
import threading
from fcntl import ioctl

from nsbroker.linux.procfs import is_pidfd

_THREADS_MAX = 16
_FIONREAD = 0x541B


class Closer:
    """Closes descriptors on up to sixteen threads, which end when there is nothing left to do."""

    def __init__(self) -> None:
        self._fds: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._threads = 0
        self._lock = threading.Lock()

    def sort_out(self, fds: list[int]) -> list[int]:
        """`fds` (taken) with something harmless in the place of each that is no pidfd: it will be refused for what it is."""
        return [fd if is_pidfd(fd) else self._replace(fd) for fd in fds]

    def _replace(self, fd: int) -> int:
        self.close(fd)
        return os.open(os.devnull, os.O_PATH | os.O_CLOEXEC)

    def hang_up(self, sock: socket.socket) -> None:
        """Close `sock` (taken).  What waits in it unreceived may hold descriptors, which close with it."""
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        waiting = int.from_bytes(ioctl(sock, _FIONREAD, bytes(4)), sys.byteorder)
        if waiting:
            self.close(sock.detach())
        else:
            sock.close()

    def close(self, fd: int) -> None:
        """Close `fd` (taken) elsewhere."""
        self._fds.put(fd)
        with self._lock:
            if self._threads < _THREADS_MAX:
                self._threads += 1
                threading.Thread(target=self._work, name="closing", daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                fd = self._fds.get_nowait()
            except queue.Empty:
                with self._lock:
                    if self._fds.empty():
                        self._threads -= 1
                        return
                continue
            with contextlib.suppress(OSError):
                os.close(fd)
