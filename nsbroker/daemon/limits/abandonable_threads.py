"""Work that may never end, on threads that can be left behind: with a deadline, and in turn for each user.

A file system of a user's making, or a process in the midst of execve(2), can keep a thread waiting for as long as that user
likes.  Nothing can end such a thread, so it is abandoned, and keeps its place in the user's share until it does end.
"""

import contextlib
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import trio

from nsbroker.daemon.limits.users import ROOT
from nsbroker.errors import QuotaExceeded

T = TypeVar("T")

_PER_TARGET = 2
# Threads of all users together, and how many of them are for root alone.
_THREADS = 96
_FOR_ROOT = 16
# Threads that run take the interpreter from the event loop by turns, so few run at once, and one more for root.  One that takes
# longer than so many seconds most likely waits for something, and is no longer counted as running.
_RUNNING = 2
_RUNNING_TIME = 0.1


def _nothing() -> None:
    pass


class _Key(NamedTuple):
    """Whose work it is, and about which target."""

    user: int
    target: str


@dataclass(slots=True, eq=False)
class _Place:
    """One thread's place in its user's share.  `is_stuck`: it has missed its deadline."""

    key: _Key
    since: float
    is_stuck: bool = False


@dataclass(slots=True, eq=False)
class _Waiting:
    """A task that waits for its turn, until it has a place or an error."""

    key: _Key
    woken: trio.Event = field(default_factory=trio.Event)
    place: _Place | None = None
    error: Exception | None = None


class AbandonableThreads:
    """Runs functions on threads, at most `per_user` for each user at once; what is more waits for its turn.

    All but the functions themselves happens on the event loop's thread.
    """

    def __init__(self, per_user: int) -> None:
        self.per_user = per_user
        self._busy: Counter[_Key] = Counter()
        self._stuck: Counter[_Key] = Counter()
        # By user: one user's many calls are no other user's wait.
        self._waiting: dict[int, deque[_Waiting]] = {}
        self._places: set[_Place] = set()
        self._is_looking = False
        # It never makes anyone wait: places are counted here.
        self._limiter = trio.CapacityLimiter(_THREADS)

    async def run(
        self,
        user: int,
        target: str,
        deadline: float,
        function: Callable[[], T],
        undo: Callable[[T], object],
        skip: Callable[[], object] = _nothing,
    ) -> T:
        """What `function`, which is about `target`, returns.  `undo`, which must not wait, is called with what comes too
        late for anyone to take, and `skip` when the function never runs.

        Raises TooSlowError after `deadline` seconds, which begin when it is this call's turn, or at once while the same
        target keeps threads of this user's waiting; QuotaExceeded while other targets keep all of them.
        """
        task = _Task(function, undo, skip)
        place = None
        try:
            place = await self._take(_Key(user, target))
            end = _Ending(self._give_back, place)
            try:
                with trio.fail_after(deadline):
                    await trio.to_thread.run_sync(task.run, end, abandon_on_cancel=True, limiter=self._limiter)
            except trio.TooSlowError:
                self._mark_stuck(place)
                raise
            return task.take()
        finally:
            if not task.abandon() and place is not None:
                self._give_back(place)

    async def _take(self, key: _Key) -> _Place:
        """Wait for a place."""
        waiting = _Waiting(key)
        self._waiting.setdefault(key.user, deque()).append(waiting)
        self._wake()
        try:
            if not waiting.woken.is_set():
                if not self._is_looking:
                    self._is_looking = True
                    trio.lowlevel.spawn_system_task(self._look_again)
                await waiting.woken.wait()
        except BaseException:
            if waiting.place is not None:
                self._give_back(waiting.place)
            self._leave(waiting)
            raise
        if waiting.place is None:
            raise waiting.error or trio.TooSlowError
        return waiting.place

    async def _look_again(self) -> None:
        """Time alone makes room, too, when threads are counted as running no longer."""
        while self._waiting:
            await trio.sleep(_RUNNING_TIME)
            self._wake()
        self._is_looking = False

    def _begin(self, key: _Key) -> _Place:
        self._busy[key] += 1
        place = _Place(key, trio.current_time())
        self._places.add(place)
        return place

    def _give_back(self, place: _Place) -> None:
        self._places.discard(place)
        self._subtract(self._busy, place.key)
        if place.is_stuck:
            self._subtract(self._stuck, place.key)
        self._wake()

    def _mark_stuck(self, place: _Place) -> None:
        """The place's thread does not end: who waits for it to end is told so."""
        place.is_stuck = True
        self._stuck[place.key] += 1
        self._wake()

    def _wake(self) -> None:
        """Wake those whose turn it is, each user's first in turn, and those who wait in vain."""
        for user in list(self._waiting):
            for waiting in list(self._waiting[user]):
                waiting.error = self._why_not(waiting.key)
                if waiting.error is None and self._has_room(waiting.key):
                    waiting.place = self._begin(waiting.key)
                    if len(self._waiting[user]) > 1:
                        # Next time it is another user's turn first.
                        self._waiting[user] = self._waiting.pop(user)
                if waiting.place is not None or waiting.error is not None:
                    self._leave(waiting)
                    waiting.woken.set()

    def _leave(self, waiting: _Waiting) -> None:
        queue = self._waiting.get(waiting.key.user)
        if queue is not None and waiting in queue:
            queue.remove(waiting)
            if not queue:
                del self._waiting[waiting.key.user]

    def _has_room(self, key: _Key) -> bool:
        most, at_once = (_THREADS, _RUNNING + 1) if key.user == ROOT else (_THREADS - _FOR_ROOT, _RUNNING)
        now = trio.current_time()
        running = sum(place.since > now - _RUNNING_TIME for place in self._places)
        return (
            running < at_once
            and self._busy[key] < _PER_TARGET
            and _of(self._busy, key.user) < self.per_user
            and self._busy.total() < most
        )

    def _why_not(self, key: _Key) -> Exception | None:
        """What to raise instead of waiting for threads that may never end."""
        if self._stuck[key] >= _PER_TARGET:
            return trio.TooSlowError()
        return QuotaExceeded("threads-per-user") if _of(self._stuck, key.user) >= self.per_user else None

    @staticmethod
    def _subtract(counter: Counter[_Key], key: _Key) -> None:
        counter[key] -= 1
        if not counter[key]:
            del counter[key]


def _of(counter: Counter[_Key], user: int) -> int:
    return sum(count for key, count in counter.items() if key.user == user)


class _Ending:
    """Tells the event loop, from another thread, that a thread has ended."""

    def __init__(self, give_back: Callable[[_Place], object], place: _Place) -> None:
        self._give_back = give_back
        self._place = place
        self._token = trio.lowlevel.current_trio_token()

    def tell(self) -> None:
        # The loop may be over before the thread is.
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._give_back, self._place)


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

    def run(self, ending: _Ending) -> None:
        with self._lock:
            if self._abandoned:
                return
            self._started = True
        try:
            result = self._function()
            with self._lock:
                self._results.append(result)
                self._undo_late()
        finally:
            ending.tell()

    def take(self) -> T:
        return self._results.pop()

    def abandon(self) -> bool:
        """Nobody waits any more; whether the function was begun."""
        with self._lock:
            self._abandoned = True
            if not self._started:
                self._skip()
            self._undo_late()
            return self._started

    def _undo_late(self) -> None:
        if self._abandoned and self._results:
            self._undo(self._results.pop())
