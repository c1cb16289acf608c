"""Threads that may never end: users take turns, few threads run at once, and nobody waits for a stuck thread."""

import threading
import time

import pytest
import trio

from nsbroker.daemon.limits.abandonable_threads import AbandonableThreads
from nsbroker.errors import QuotaExceeded


def nothing(_: object) -> None:
    pass


async def test_calls_above_the_limit_wait_and_none_is_refused() -> None:
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


async def test_calls_for_a_stuck_target_fail_soon_and_other_targets_are_served() -> None:
    threads = AbandonableThreads(4)
    ended = threading.Event()
    skipped: list[str] = []

    async def ask_silent() -> None:
        with pytest.raises(trio.TooSlowError):
            await threads.run(1, "silent", 0.2, lambda: ended.wait(20), nothing, lambda: skipped.append("silent"))

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(ask_silent)
        await trio.sleep(0.12)
        with trio.fail_after(2):
            assert await threads.run(1, "other", 1, lambda: "answer", nothing) == "answer"
    # Two were started.  The others, which waited for these, failed as soon as both had missed their deadline.
    assert len(skipped) == 4
    with trio.fail_after(0.1):
        await ask_silent()
    ended.set()
    for _ in range(100):
        if not threads._busy:
            break
        await trio.sleep(0.01)
    assert not threads._busy
    assert not threads._stuck


async def test_a_user_whose_threads_are_all_stuck_gets_quota_exceeded() -> None:
    threads = AbandonableThreads(2)
    ended = threading.Event()
    for target in ("a", "b"):
        with pytest.raises(trio.TooSlowError):
            await threads.run(1, target, 0.05, lambda: ended.wait(20), nothing)
    with pytest.raises(QuotaExceeded, match="threads-per-user"):
        await threads.run(1, "c", 1, lambda: None, nothing)
    await trio.sleep(0.1)
    with trio.fail_after(1):
        assert await threads.run(2, "c", 1, lambda: 2, nothing) == 2
    ended.set()
    await trio.sleep(0.05)


async def test_a_call_that_is_cancelled_while_waiting_frees_its_place() -> None:
    threads = AbandonableThreads(8)
    ended = threading.Event()
    skipped: list[int] = []

    async def ask(number: int) -> None:
        await threads.run(1, "one", 5, lambda: ended.wait(20), nothing, lambda: skipped.append(number))

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(ask, number)
        await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    assert len(skipped) == 3
    ended.set()
    await trio.sleep(0.05)
    assert await threads.run(1, "one", 5, lambda: 1, nothing) == 1


async def test_a_result_that_comes_too_late_is_undone() -> None:
    threads = AbandonableThreads(8)
    go_on = threading.Event()
    undone: list[str] = []

    def late() -> str:
        go_on.wait(20)
        return "late"

    with pytest.raises(trio.TooSlowError):
        await threads.run(1, "x", 0.05, late, undone.append)
    go_on.set()
    await trio.sleep(0.05)
    assert undone == ["late"]
