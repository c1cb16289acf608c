"""Closing other users' descriptors on threads, because closing can block the event loop.

The user who made a descriptor decides how long closing it takes: it can be a socket that lingers (SO_LINGER in socket(7)),
or a file of a FUSE file system of that user.  Peers only have a reason to send pidfds, which can be closed without harm.
Every other descriptor is closed on a thread.  Each user has few threads, so one user's descriptors never delay those of
another.  Code that receives descriptors checks `is_full` first, so one user's descriptors never pile up here.
"""

import contextlib
import os
import socket
import threading
from queue import Empty, SimpleQueue

from nsbroker.linux.procfs import is_pidfd
from nsbroker.linux.socket_options import unreceived_bytes
from nsbroker.linux.threads import start_thread

_PER_USER = 2
# The number of threads of all users together.  Beyond _THREADS, a user without any still gets one, up to _THREADS_MAX.
_THREADS = 32
_THREADS_MAX = 96
# A user with more descriptors waiting than this may send no more.
_WAITING_MAX = 32
# A thread waits this many seconds for the next descriptor before it ends: starting one costs ten times what waking one costs.
_IDLE = 0.5
# With more threads than this, none of them waits, so that idle ones leave room for other users'.
_IDLE_MAX = 16
# With more unreceived bytes than this, a socket is not searched for descriptors, but closed on a thread.
_PEEK_MAX = 65536


class Closing:
    """A descriptor that is being closed; `done` becomes true once it is closed."""

    __slots__ = ("done", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.done = False


class _Queue:
    """One user's descriptors that wait, the number of its threads, and of its descriptors that wait or are being closed."""

    __slots__ = ("threads", "unclosed", "waiting")

    def __init__(self) -> None:
        self.waiting: SimpleQueue[Closing] = SimpleQueue()
        self.threads = 0
        self.unclosed = 0


class Closer:
    """Closes descriptors on threads, which end when nothing has been left to close for a moment.

    The argument `user` of the methods says who sent the descriptor.  It can be any number that distinguishes users.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[int, _Queue] = {}
        self._threads = 0

    def is_full(self, user: int) -> bool:
        """Return whether so many of this user's descriptors wait to be closed that the caller must receive no more of them.

        Whoever waits until it is false calls this again and again.
        """
        queue = self._queues.get(user)
        if queue is None or queue.waiting.qsize() <= _WAITING_MAX:
            return False
        if not queue.threads:
            # No thread could be started for any of them, and `close` is not called as long as nothing is received.  If the queue
            # has been closed to its end by now, nothing of it is unclosed, and no thread is started.
            with self._lock:
                self._start(user, queue)
        return True

    def replace_non_pidfds(self, fds: list[int], user: int) -> list[int]:
        """Replace each of `fds` (taken, also on error) that is not a pidfd with an O_PATH fd of /dev/null.

        The originals are closed on a thread.  The returned list is `fds`, and the caller's.  Raises OSError.
        """
        for index, fd in enumerate(fds):
            try:
                if is_pidfd(fd):
                    continue
                fds[index] = os.open(os.devnull, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                for each in fds:
                    self.close(each, user)
                fds.clear()
                raise
            self.close(fd, user)
        return fds

    def hang_up(self, sock: socket.socket, user: int) -> Closing | None:
        """Close `sock` (taken, non-blocking), on a thread if that can block.

        Data that was not received can contain descriptors, which are closed together with the socket.  The socket is then
        closed on a thread, and the `Closing` is returned.  None means that the socket is closed already.
        """
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        if _has_no_descriptors(sock):
            sock.close()
            return None
        return self.close(sock.detach(), user)

    def close(self, fd: int, user: int) -> Closing:
        """Close `fd` (taken) on a thread."""
        closing = Closing(fd)
        with self._lock:
            queue = self._queues.get(user)
            if queue is None:
                queue = self._queues[user] = _Queue()
            queue.unclosed += 1
            queue.waiting.put(closing)
            self._start(user, queue)
        return closing

    def start_waiting(self) -> None:
        """Start threads for descriptors that wait without one, because there could be no more threads.  Call this now and then."""
        with self._lock:
            for user, queue in self._queues.items():
                self._start(user, queue)

    def _start(self, user: int, queue: _Queue) -> None:
        """Start a thread for the user, if there is work and room for one more.  The caller has the lock."""
        if queue.threads >= min(queue.unclosed, _PER_USER) or self._threads >= (_THREADS if queue.threads else _THREADS_MAX):
            return
        queue.threads += 1
        self._threads += 1
        try:
            start_thread("closing", self._run, user, queue)
        except RuntimeError:
            # There can be no more threads now: see pids.max in cgroups(7).  The descriptor waits until this is called again.
            queue.threads -= 1
            self._threads -= 1

    def _run(self, user: int, queue: _Queue) -> None:
        while (closing := self._next(user, queue)) is not None:
            with contextlib.suppress(OSError):
                os.close(closing.fd)
            closing.done = True
            with self._lock:
                queue.unclosed -= 1

    def _next(self, user: int, queue: _Queue) -> Closing | None:
        """Return the next descriptor to close, or None when the thread must end."""
        with contextlib.suppress(Empty):
            return queue.waiting.get(timeout=_IDLE if self._threads <= _IDLE_MAX else 0)
        with self._lock:
            # A descriptor can have come after the wait was over.
            with contextlib.suppress(Empty):
                return queue.waiting.get_nowait()
            queue.threads -= 1
            self._threads -= 1
            if not queue.threads:
                del self._queues[user]
            return None


def _has_no_descriptors(sock: socket.socket) -> bool:
    """Return whether the data that `sock` (shut down) has not received certainly contains no descriptors."""
    waiting = unreceived_bytes(sock)
    if not 0 < waiting <= _PEEK_MAX:
        return not waiting
    try:
        # Peeking without a control buffer installs no descriptors, and MSG_CTRUNC shows that some are waiting.
        count, _, flags, _ = sock.recvmsg_into((bytearray(waiting),), 0, socket.MSG_PEEK)
    except OSError:
        return False
    return count == waiting and not flags & socket.MSG_CTRUNC
