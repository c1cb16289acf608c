"""Run functions that may never return on threads that can be abandoned, with a deadline and a limit for each user.

A file system that a user controls (FUSE), or a process in the middle of execve(2), can block a thread for as long as that user
likes.  Nothing can end such a thread.  It is abandoned after its deadline, and counts towards the user's limit until it ends.
"""

import contextlib
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar, cast

import trio
from msgspec import Struct, field

from nsbroker.daemon.limits.deadline import fail_after
from nsbroker.daemon.limits.users import ROOT
from nsbroker.errors import QuotaExceeded

T = TypeVar("T")

# Threads of one user for one target.
_PER_TARGET = 2
# Threads of all users together, and how many of these are reserved for root.
_THREADS = 96
_FOR_ROOT = 16
# Running threads compete with the event loop for the interpreter lock, so only a few run at once, and one more if it is root's.
# A thread that takes longer than this many seconds most likely waits for something, and no longer counts as running.
_RUNNING = 2
_RUNNING_TIME = 0.1


def _do_nothing() -> None:
    pass


class _NoLimit:
    """A limiter for trio, which requires one, that never waits: `AbandonableThreads` counts the threads itself.

    A trio.CapacityLimiter has a checkpoint, for which a call would wait a whole pass of a busy event loop.
    """

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        pass

    def release_on_behalf_of(self, borrower: object) -> None:
        pass


# Trio takes anything with these two methods, and its annotation does not say so.
_no_limit = cast("trio.CapacityLimiter", _NoLimit())


class _Key(NamedTuple):
    """What threads are counted by: the user for whom the function runs, and the target that it is about."""

    user: int
    target: str


class _Slot(Struct, eq=False):
    """One thread, as it counts towards its user's limit.

    `since` is when it started (trio.current_time()).  `is_stuck` is set when it has missed its deadline.
    """

    key: _Key
    since: float
    is_stuck: bool = False


class _Waiting(Struct, eq=False):
    """A task that waits for a thread.  `woken` is set once it has a slot or an error."""

    key: _Key
    woken: trio.Event = field(default_factory=trio.Event)
    slot: _Slot | None = None
    errors: list[Exception] = field(default_factory=list)


class AbandonableThreads:
    """Runs functions on threads, at most `per_user` for each user at once.  Further calls wait for their turn.

    Only the functions run on those threads; everything else happens on the event loop's thread.
    """

    def __init__(self, per_user: int) -> None:
        self.per_user = per_user
        self._busy: Counter[_Key] = Counter()
        self._stuck: Counter[_Key] = Counter()
        # One queue for each user, so that no user has to wait for another user's many calls.
        self._waiting: dict[int, deque[_Waiting]] = {}
        self._slots: set[_Slot] = set()
        self._is_rechecking = False

    async def run(
        self,
        user: int,
        target: str,
        deadline: float,
        function: Callable[[], T],
        undo: Callable[[T], object],
        skip: Callable[[], object] = _do_nothing,
    ) -> T:
        """Run `function`, which is about `target`, on a thread, and return its result.

        `undo` is called with a result that comes after the caller has stopped waiting; it must not block.  `skip` is called when
        `function` is never run.

        Raises TooSlowError `deadline` seconds after the thread was started, or at once while as many of this user's threads as
        one target may have are stuck on the same target.  Raises QuotaExceeded while all of the user's threads are stuck.
        """
        task = _Task(function, undo, skip)
        slot = None
        try:
            slot = await self._acquire(_Key(user, target))
            notifier = _EndNotifier(self._release, slot)
            try:
                with fail_after(deadline):
                    await trio.to_thread.run_sync(task.run, notifier, abandon_on_cancel=True, limiter=_no_limit)
            except trio.TooSlowError:
                self._mark_stuck(slot)
                raise
            return task.take()
        finally:
            if not task.abandon() and slot is not None:
                self._release(slot)

    async def _acquire(self, key: _Key) -> _Slot:
        """Wait until a thread may be started.  Raises the same errors as `run` when threads that are stuck leave no room."""
        if errors := self._errors_for(key):
            raise errors.pop()
        waiting = _Waiting(key)
        self._waiting.setdefault(key.user, deque()).append(waiting)
        self._wake()
        try:
            if not waiting.woken.is_set():
                if not self._is_rechecking:
                    self._is_rechecking = True
                    trio.lowlevel.spawn_system_task(self._recheck)
                await waiting.woken.wait()
        except BaseException:
            if waiting.slot is not None:
                self._release(waiting.slot)
            self._remove_waiting(waiting)
            raise
        if waiting.slot is None:
            raise waiting.errors.pop()
        return waiting.slot

    async def _recheck(self) -> None:
        """Check at intervals whether waiting tasks may start, or can never start, for which there is not always an event.

        A slow thread stops counting as running after a moment, and a reload changes the limit.
        """
        while self._waiting:
            await trio.sleep(_RUNNING_TIME)
            # A reload can have lowered the limit to the number of the user's threads that are stuck.
            for user in {key.user for key in self._stuck}:
                self._fail_waiting(user)
            self._wake()
        self._is_rechecking = False

    def _add_slot(self, key: _Key) -> _Slot:
        self._busy[key] += 1
        slot = _Slot(key, trio.current_time())
        self._slots.add(slot)
        return slot

    def _release(self, slot: _Slot) -> None:
        self._slots.discard(slot)
        self._subtract(self._busy, slot.key)
        if slot.is_stuck:
            self._subtract(self._stuck, slot.key)
        self._wake()

    def _mark_stuck(self, slot: _Slot) -> None:
        """Note that the thread has missed its deadline, and fail the tasks that would wait for it to end."""
        if slot not in self._slots:
            return  # It has ended at the same moment.
        slot.is_stuck = True
        self._stuck[slot.key] += 1
        self._fail_waiting(slot.key.user)

    def _fail_waiting(self, user: int) -> None:
        """Fail the tasks of this user that would wait for threads that may never end."""
        for waiting in list(self._waiting.get(user, ())):
            if errors := self._errors_for(waiting.key):
                waiting.errors = errors
                self._remove_waiting(waiting)
                waiting.woken.set()

    def _wake(self) -> None:
        """Wake the tasks that may start now.  Each user's first task comes before any second one."""
        users = list(self._waiting)
        while users:
            # Whoever has had no room, or no task that may start, has none in the next round either.
            users = [user for user in users if self._wake_first(user)]

    def _wake_first(self, user: int) -> bool:
        """Wake the first of the user's tasks that may start now.  Return False if there is none."""
        if not self._has_room(user):
            return False
        for waiting in self._waiting.get(user, ()):
            if self._busy[waiting.key] < _PER_TARGET:
                waiting.slot = self._add_slot(waiting.key)
                # Move this user to the end, so that another user comes first next time.
                self._waiting[user] = self._waiting.pop(user)
                self._remove_waiting(waiting)
                waiting.woken.set()
                return True
        return False

    def _remove_waiting(self, waiting: _Waiting) -> None:
        queue = self._waiting.get(waiting.key.user)
        if queue is not None and waiting in queue:
            queue.remove(waiting)
            if not queue:
                del self._waiting[waiting.key.user]

    def _has_room(self, user: int) -> bool:
        """Return whether the user may have one more thread now."""
        most, at_once = (_THREADS, _RUNNING + 1) if user == ROOT else (_THREADS - _FOR_ROOT, _RUNNING)
        now = trio.current_time()
        running = sum(slot.since > now - _RUNNING_TIME for slot in self._slots)
        return running < at_once and _count_of(self._busy, user) < self.per_user and self._busy.total() < most

    def _errors_for(self, key: _Key) -> list[Exception]:
        """Return the error to raise when the task would wait for threads that may never end, else an empty list.

        Whoever raises it takes it out of the list.  An error to which a frame on its way still refers stays in memory, with all
        these frames, until a full garbage collection.
        """
        if self._stuck[key] >= _PER_TARGET:
            return [trio.TooSlowError()]
        return [QuotaExceeded("threads-per-user")] if _count_of(self._stuck, key.user) >= self.per_user else []

    @staticmethod
    def _subtract(counter: Counter[_Key], key: _Key) -> None:
        counter[key] -= 1
        if not counter[key]:
            del counter[key]


def _count_of(counter: Counter[_Key], user: int) -> int:
    return sum(count for key, count in counter.items() if key.user == user)


class _EndNotifier:
    """Frees a thread's slot, on the event loop, when the function has returned.  `notify` is called on the thread."""

    def __init__(self, release: Callable[[_Slot], object], slot: _Slot) -> None:
        self._release = release
        self._slot = slot
        self._token = trio.lowlevel.current_trio_token()

    def notify(self) -> None:
        # The event loop may have ended before the thread.
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._release, self._slot)


class _Task(Generic[T]):
    """One run of a function.  Its result is either taken by the waiting task or undone.

    The thread and the task can end in either order: the one that ends last undoes a result that nobody has taken.
    """

    def __init__(self, function: Callable[[], T], undo: Callable[[T], object], skip: Callable[[], object]) -> None:
        self._function = function
        self._undo = undo
        self._skip = skip
        self._lock = threading.Lock()
        self._started = False
        self._abandoned = False
        self._results: list[T] = []
        self._errors: list[Exception] = []

    def run(self, notifier: _EndNotifier) -> None:
        with self._lock:
            if self._abandoned:
                return
            self._started = True
        try:
            result = self._function()
            with self._lock:
                self._results.append(result)
                self._undo_unclaimed()
        except Exception as error:
            # Trio would pass it on, too, but refer to it from frames on its way: see `AbandonableThreads._errors_for`.
            with self._lock:
                if not self._abandoned:
                    self._errors.append(error)
        finally:
            notifier.notify()

    def take(self) -> T:
        """Return the result, or raise the error of the function."""
        if self._errors:
            raise self._errors.pop()
        return self._results.pop()

    def abandon(self) -> bool:
        """Note that no task waits for the result any more.  Return whether the function has been started."""
        with self._lock:
            self._abandoned = True
            self._errors.clear()
            if not self._started:
                self._skip()
            self._undo_unclaimed()
            return self._started

    def _undo_unclaimed(self) -> None:
        if self._abandoned and self._results:
            self._undo(self._results.pop())
