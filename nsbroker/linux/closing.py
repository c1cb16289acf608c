"""Closing descriptors of other users away from the event loop.

Closing a descriptor can take as long as whoever made it likes: a socket that lingers (SO_LINGER in socket(7)), a file of
a FUSE file system of theirs.  A peer has no reason to send anything but pidfds, whose closing is harmless; everything
else is closed on threads.  Each user has few of them, so that one user's descriptors never keep another's waiting, and
whoever receives descriptors asks `is_full` first, so that one user's descriptors never pile up here.
"""

import contextlib
import os
import socket
import threading
from collections import deque
from dataclasses import dataclass, field

from nsbroker.linux.procfs import is_pidfd
from nsbroker.linux.socket_options import unreceived_bytes

_PER_USER = 2
# Threads of all users together; beyond it a user still gets a first one, up to the second number.
_THREADS = 32
_THREADS_MAX = 96
# A user with more than this waiting may send nothing more that has to be closed.
_WAITING_MAX = 32
# What a socket has not received is searched for descriptors up to so many bytes.
_LOOKED_AT = 65536


class Closing:
    """One descriptor on its way: `done` once it is closed."""

    __slots__ = ("done", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.done = False


@dataclass(slots=True)
class _Queue:
    """What waits for one user's threads, and how many of them there are."""

    waiting: deque[Closing] = field(default_factory=deque)
    threads: int = 0


class Closer:
    """Closes descriptors on threads, which end when there is nothing left to do.

    `user` is whom a descriptor came from: any number that tells users apart.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[int, _Queue] = {}
        self._threads = 0

    def is_full(self, user: int) -> bool:
        """Whether so much of this user's waits to be closed that no more may be taken from them."""
        queue = self._queues.get(user)
        return queue is not None and len(queue.waiting) > _WAITING_MAX

    def sort_out(self, fds: list[int], user: int) -> list[int]:
        """Replace each of `fds` (taken) that is no pidfd with an O_PATH fd of /dev/null, and close the original on a thread."""
        return [fd if is_pidfd(fd) else self._replace(fd, user) for fd in fds]

    def _replace(self, fd: int, user: int) -> int:
        self.close(fd, user)
        return os.open(os.devnull, os.O_PATH | os.O_CLOEXEC)

    def hang_up(self, sock: socket.socket, user: int) -> Closing | None:
        """Close `sock` (taken, non-blocking).  What it has not received may hold descriptors, which close with it: then it is
        closed on a thread, and how far that is is returned.
        """
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        if _holds_no_descriptors(sock):
            sock.close()
            return None
        return self.close(sock.detach(), user)

    def close(self, fd: int, user: int) -> Closing:
        """Close `fd` (taken) on a thread."""
        closing = Closing(fd)
        with self._lock:
            queue = self._queues.setdefault(user, _Queue())
            queue.waiting.append(closing)
            if queue.threads < _PER_USER and self._threads < (_THREADS if queue.threads else _THREADS_MAX):
                queue.threads += 1
                self._threads += 1
                threading.Thread(target=self._work, args=(user, queue), name="closing", daemon=True).start()
        return closing

    def _work(self, user: int, queue: _Queue) -> None:
        while (closing := self._next(user, queue)) is not None:
            with contextlib.suppress(OSError):
                os.close(closing.fd)
            closing.done = True

    def _next(self, user: int, queue: _Queue) -> Closing | None:
        """The next to close; None when the thread is to end."""
        with self._lock:
            if queue.waiting:
                return queue.waiting.popleft()
            queue.threads -= 1
            self._threads -= 1
            if not queue.threads:
                del self._queues[user]
            return None


def _holds_no_descriptors(sock: socket.socket) -> bool:
    """Whether it is certain that no descriptors came with what `sock` (shut down) has not received."""
    waiting = unreceived_bytes(sock)
    if not 0 < waiting <= _LOOKED_AT:
        return not waiting
    try:
        # Looking installs none of them without a buffer for them, and MSG_CTRUNC tells that there are some.
        count, _, flags, _ = sock.recvmsg_into((bytearray(waiting),), 0, socket.MSG_PEEK)
    except OSError:
        return False
    return count == waiting and not flags & socket.MSG_CTRUNC
