"""Threads that may never end: users take turns, few threads run at once, and nobody waits for a stuck thread.

The threads are real, but the clock moves only when a test moves it.
"""

import contextlib
import threading
import time
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from nsbroker.daemon.limits.abandonable_threads import AbandonableThreads, _Key
from nsbroker.errors import QuotaExceeded
from tests.world import eventually


def nothing(_: object) -> None:
    pass


class Stuck:
    """A function that does not return before `end` is called."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._begun = threading.Semaphore(0)

    def __call__(self) -> str:
        self._begun.release()
        self._ended.wait()
        return "late"

    async def begun(self, count: int) -> None:
        """Wait until so many further threads have begun to run it."""
        for _ in range(count):
            await trio.to_thread.run_sync(self._begun.acquire)

    def end(self) -> None:
        self._ended.set()


async def test_calls_above_the_limit_wait_and_none_is_refused(mock_clock: MockClock) -> None:
    threads = AbandonableThreads(3)
    at_once: list[int] = []
    lock = threading.Lock()
    running = 0

    def work() -> int:
        nonlocal running
        with lock:
            running += 1
            at_once.append(running)
        time.sleep(0.005)
        with lock:
            running -= 1
        return 1

    results: list[int] = []

    async def ask(number: int) -> None:
        results.append(await threads.run(1, f"target {number % 5}", 5, work, nothing))

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(ask, number)
    assert len(results) == 40
    assert max(at_once) <= 2, "only a few run at once, since each delays the event loop"


async def test_calls_for_a_stuck_target_fail_soon_and_other_targets_are_served(mock_clock: MockClock) -> None:
    threads, stuck = AbandonableThreads(4), Stuck()
    skipped: list[str] = []

    async def ask_silent() -> None:
        with pytest.raises(trio.TooSlowError):
            await threads.run(1, "silent", 0.2, stuck, nothing, lambda: skipped.append("silent"))

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(ask_silent)
        await stuck.begun(2)
        mock_clock.jump(0.12)
        assert await threads.run(1, "other", 1, lambda: "answer", nothing) == "answer"
        mock_clock.jump(0.1)
    # Two were started.  The others, which waited for these, failed as soon as both had missed their deadline.
    assert len(skipped) == 4
    await ask_silent()
    assert len(skipped) == 5
    stuck.end()
    await trio.to_thread.run_sync(eventually, lambda: not threads._busy, "both threads have ended")
    assert not threads._stuck


async def test_a_user_whose_threads_are_all_stuck_gets_quota_exceeded(mock_clock: MockClock) -> None:
    threads, stuck = AbandonableThreads(2), Stuck()

    async def ask(target: str) -> None:
        with pytest.raises(trio.TooSlowError):
            await threads.run(1, target, 0.05, stuck, nothing)

    for target in ("a", "b"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, target)
            await stuck.begun(1)
            mock_clock.jump(0.05)
    with pytest.raises(QuotaExceeded, match="threads-per-user"):
        await threads.run(1, "c", 1, lambda: None, nothing)
    mock_clock.jump(0.1)
    assert await threads.run(2, "c", 1, lambda: 2, nothing) == 2
    stuck.end()


async def test_a_call_that_is_cancelled_while_waiting_frees_its_place(mock_clock: MockClock) -> None:
    threads, stuck = AbandonableThreads(8), Stuck()
    skipped: list[int] = []

    async def ask(number: int) -> None:
        await threads.run(1, "one", 5, stuck, nothing, lambda: skipped.append(number))

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(ask, number)
        await stuck.begun(2)
        nursery.cancel_scope.cancel()
    assert len(skipped) == 3
    stuck.end()
    assert await threads.run(1, "one", 5, lambda: 1, nothing) == 1


async def test_a_result_that_comes_too_late_is_undone(mock_clock: MockClock) -> None:
    threads, stuck = AbandonableThreads(8), Stuck()
    undone: list[str] = []
    is_undone = threading.Event()

    def undo(result: str) -> None:
        undone.append(result)
        is_undone.set()

    async def ask() -> None:
        with pytest.raises(trio.TooSlowError):
            await threads.run(1, "x", 0.05, stuck, undo)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await stuck.begun(1)
        mock_clock.jump(0.05)
    assert undone == []
    stuck.end()
    await trio.to_thread.run_sync(is_undone.wait)
    assert undone == ["late"]


async def test_a_thread_that_ends_at_its_deadline_does_not_count_as_stuck_for_ever() -> None:
    threads = AbandonableThreads(2)
    for _ in range(3):
        place = await threads._acquire(_Key(1, "a"))
        threads._release(place)
        threads._mark_stuck(place)
    assert not threads._stuck
    assert await threads.run(1, "a", 5, lambda: 1, nothing) == 1


async def test_a_call_for_another_target_goes_on_before_those_that_wait_for_a_stuck_one(mock_clock: MockClock) -> None:
    threads, stuck = AbandonableThreads(8), Stuck()
    done: list[str] = []

    async def ask(target: str, function: Callable[[], object]) -> None:
        with contextlib.suppress(trio.TooSlowError):
            await threads.run(1, target, 10, function, nothing)
            done.append(target)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask, "a", stuck)
        await stuck.begun(2)
        mock_clock.jump(0.2)
        nursery.start_soon(ask, "b", int)
        while done != ["b"]:
            await trio.lowlevel.checkpoint()
        stuck.end()
    assert done == ["b", *"aaaaa"]


async def test_lowering_the_limit_fails_the_tasks_that_then_wait_for_stuck_threads(autojump_clock: MockClock) -> None:
    threads = AbandonableThreads(3)
    slots = [await threads._acquire(_Key(1, target)) for target in "abc"]
    for stuck in slots[:2]:
        threads._mark_stuck(stuck)

    async def lower() -> None:
        threads.per_user = 2
        threads._release(slots[2])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lower)
        with trio.fail_after(5), pytest.raises(QuotaExceeded, match="threads-per-user"):
            await threads._acquire(_Key(1, "d"))
    for stuck in slots[:2]:
        threads._release(stuck)
    await threads._acquire(_Key(1, "d"))


async def test_when_there_is_room_for_two_each_user_gets_one_thread_before_any_gets_a_second_one(mock_clock: MockClock) -> None:
    """Two threads stop counting as running at the same moment."""
    threads = AbandonableThreads(8)
    started: list[str] = []

    async def ask(user: int, target: str) -> None:
        await threads._acquire(_Key(user, target))
        started.append(target)

    async with trio.open_nursery() as nursery:
        for user, target in ((3, "x"), (3, "y"), (1, "a"), (1, "b"), (1, "c"), (2, "d"), (2, "e")):
            nursery.start_soon(ask, user, target)
            await wait_all_tasks_blocked()
        assert started == ["x", "y"]
        for _ in range(2):
            mock_clock.jump(0.2)
            await wait_all_tasks_blocked()
        assert (sorted(started[2:4]), sorted(started[4:6])) == (["a", "d"], ["b", "e"])
        nursery.cancel_scope.cancel()
