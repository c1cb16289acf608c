"""Work on files that may never end, on threads that can be spared: with a deadline, and few enough for each user."""

import functools
import os
import threading
from collections import Counter
from collections.abc import Callable
from typing import Generic, TypeVar

import trio

from nsbroker.errors import QuotaExceeded

T = TypeVar("T")

_PER_USER = 4
_IN_ALL = 32


class SpareThreads:
    """Runs functions, each for some user.  One that misses its deadline keeps its thread, and its place in the user's
    share, until it does end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy: Counter[int] = Counter()
        # It never makes anyone wait: shares are counted here.
        self._limiter = trio.CapacityLimiter(_IN_ALL)

    async def run(self, uid: int, deadline: float, fd: int, function: Callable[[int], T], undo: Callable[[T], object]) -> T:
        """What `function` makes of `fd`, which this takes and the function borrows.

        `undo`, which must not wait, is called with what comes too late for anyone to take.  Raises TooSlowError after
        `deadline` seconds, QuotaExceeded when too many of the user's are under way.
        """
        task = _Task(fd, function, undo)
        try:
            self._take(uid)
            with trio.fail_after(deadline):
                await trio.to_thread.run_sync(
                    functools.partial(self._work, uid, task), abandon_on_cancel=True, limiter=self._limiter
                )
            return task.take()
        finally:
            task.abandon()

    def _work(self, uid: int, task: "_Task[T]") -> None:
        try:
            task.run()
        finally:
            self._give_back(uid)

    def _take(self, uid: int) -> None:
        with self._lock:
            if self._busy[uid] >= _PER_USER or self._busy.total() >= _IN_ALL:
                raise QuotaExceeded("devices under way")
            self._busy[uid] += 1

    def _give_back(self, uid: int) -> None:
        with self._lock:
            self._busy[uid] -= 1
            if not self._busy[uid]:
                del self._busy[uid]


class _Task(Generic[T]):
    """One function's run.  Its fd is closed when it has run, or when it never will; its result is taken, or undone."""

    def __init__(self, fd: int, function: Callable[[int], T], undo: Callable[[T], object]) -> None:
        self._fd = fd
        self._function = function
        self._undo = undo
        self._lock = threading.Lock()
        self._started = False
        self._abandoned = False
        self._results: list[T] = []

    def run(self) -> None:
        with self._lock:
            if self._abandoned:
                return
            self._started = True
        try:
            result = self._function(self._fd)
        finally:
            os.close(self._fd)
        with self._lock:
            self._results.append(result)
            self._undo_late()

    def take(self) -> T:
        return self._results.pop()

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            if not self._started:
                os.close(self._fd)
            self._undo_late()

    def _undo_late(self) -> None:
        if self._abandoned and self._results:
            self._undo(self._results.pop())
