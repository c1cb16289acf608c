"""Work that may never end, on threads that can be spared: with a deadline, and few enough for each user."""

import functools
import threading
from collections import Counter
from collections.abc import Callable
from typing import Generic, TypeVar

import trio

from nsbroker.errors import QuotaExceeded

T = TypeVar("T")

_PER_USER = 8
_PER_USER_AND_TARGET = 2
_IN_ALL = 32


def _nothing() -> None:
    pass


class AbandonableThreads:
    """Runs functions, each for some user.  One that misses its deadline keeps its thread, and its place in the user's
    share, until it does end.  `limit` names the share in errors.
    """

    def __init__(self, limit: str) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._busy: Counter[tuple[int, str]] = Counter()
        # It never makes anyone wait: shares are counted here.
        self._limiter = trio.CapacityLimiter(_IN_ALL)

    async def run(
        self,
        uid: int,
        about: str,
        deadline: float,
        function: Callable[[], T],
        undo: Callable[[T], object],
        skip: Callable[[], object] = _nothing,
    ) -> T:
        """What `function`, which is about some target, returns.  `undo`, which must not wait, is called with what comes too
        late for anyone to take, and `skip` when the function never runs.

        Raises TooSlowError after `deadline` seconds, QuotaExceeded when too much of the user's is under way.
        """
        task = _Task(function, undo, skip)
        try:
            self._take(uid, about)
            with trio.fail_after(deadline):
                await trio.to_thread.run_sync(
                    functools.partial(self._work, uid, about, task), abandon_on_cancel=True, limiter=self._limiter
                )
            return task.take()
        finally:
            task.abandon()

    def _work(self, uid: int, about: str, task: "_Task[T]") -> None:
        try:
            task.run()
        finally:
            self._give_back(uid, about)

    def _take(self, uid: int, about: str) -> None:
        with self._lock:
            mine = sum(count for (user, _), count in self._busy.items() if user == uid)
            # Root has a part that nobody else can use up.
            most = _IN_ALL if uid == 0 else _IN_ALL - _PER_USER
            # A target that never answers shall not keep its user from others.
            if self._busy[uid, about] >= _PER_USER_AND_TARGET or mine >= _PER_USER or self._busy.total() >= most:
                raise QuotaExceeded(self._limit)
            self._busy[uid, about] += 1

    def _give_back(self, uid: int, about: str) -> None:
        with self._lock:
            self._busy[uid, about] -= 1
            if not self._busy[uid, about]:
                del self._busy[uid, about]


class _Task(Generic[T]):
    """One function's run.  Its result is taken, or undone: whoever comes last sees to it."""

    def __init__(self, function: Callable[[], T], undo: Callable[[T], object], skip: Callable[[], object]) -> None:
        self._function = function
        self._undo = undo
        self._skip = skip
        self._lock = threading.Lock()
        self._started = False
        self._abandoned = False
        self._results: list[T] = []

    def run(self) -> None:
        with self._lock:
            if self._abandoned:
                return
            self._started = True
        result = self._function()
        with self._lock:
            self._results.append(result)
            self._undo_late()

    def take(self) -> T:
        return self._results.pop()

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            if not self._started:
                self._skip()
            self._undo_late()

    def _undo_late(self) -> None:
        if self._abandoned and self._results:
            self._undo(self._results.pop())
