"""Fair queueing: the user who has used the least time comes first."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import wait_all_tasks_blocked

from nsbroker.daemon.limits.fair_queue import FairQueue, Turn
from tests.world import PATIENCE


@asynccontextmanager
async def full_queue() -> AsyncIterator[tuple[FairQueue, trio.Nursery]]:
    """A queue in a pass of the event loop that has no time left, so that all tasks have to wait."""
    queue = FairQueue()
    queue.spend(0, 1.0)
    async with trio.open_nursery() as nursery:
        yield queue, nursery
        nursery.cancel_scope.cancel()


async def test_a_user_with_many_tasks_and_one_with_a_single_task_take_turns() -> None:
    served: list[int] = []
    async with full_queue() as (queue, nursery):

        async def work(user: int) -> None:
            await queue.take(user)
            served.append(user)

        for _ in range(5):
            nursery.start_soon(work, 1)
            await wait_all_tasks_blocked()
        nursery.start_soon(work, 2)
        await wait_all_tasks_blocked()
        nursery.start_soon(queue.run)
        await wait_all_tasks_blocked()
    assert sorted(served[:2]) == [1, 2]
    assert served[2:] == [1, 1, 1, 1]


async def test_a_user_who_asks_little_goes_before_many_who_ask_much() -> None:
    served: list[int] = []
    async with full_queue() as (queue, nursery):

        async def work(user: int, seconds: float, times: int) -> None:
            for _ in range(times):
                await queue.take(user)
                served.append(user)
                queue.spend(user, seconds)

        for user in range(1, 41):
            nursery.start_soon(work, user, 0.001 + user / 1e5, 50)
        nursery.start_soon(queue.run)
        while len(served) < 1000:
            await trio.lowlevel.checkpoint()
        for _ in range(10):
            before = len(served)
            await work(100, 0.0001, 1)
            assert served[-1] == 100
            # Only the tasks of a few passes came before, not those of all other users.
            assert len(served) - before < 20


async def test_a_user_who_was_away_has_not_saved_up_time() -> None:
    served: list[int] = []
    async with full_queue() as (queue, nursery):

        async def work(user: int, times: int) -> None:
            for _ in range(times):
                await queue.take(user)
                served.append(user)
                queue.spend(user, 0.001)

        nursery.start_soon(queue.run)
        # The first user has used a whole second when the second user comes.  From then on they take turns nevertheless.
        await work(1, 1000)
        nursery.start_soon(work, 1, 20)
        nursery.start_soon(work, 2, 20)
        while len(served) < 1030:
            await trio.lowlevel.checkpoint()
    assert 10 <= served[1000:1030].count(2) <= 20


async def test_nothing_is_awaited_when_nobody_else_waits_and_time_is_left() -> None:
    queue = FairQueue()
    for _ in range(100):
        coroutine = Turn(queue, 1).take()
        try:
            coroutine.send(None)
        except StopIteration:
            continue
        raise AssertionError("it waited")


async def test_each_pass_of_the_event_loop_has_time_of_its_own() -> None:
    queue = FairQueue()
    queue.spend(1, 1.0)
    trio.lowlevel.add_instrument(queue)
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
    with trio.fail_after(PATIENCE):
        # No other task would wake this one if it had to wait.
        await queue.take(1)
    trio.lowlevel.remove_instrument(queue)


async def test_a_task_that_is_cancelled_while_waiting_uses_up_no_turn() -> None:
    served: list[str] = []
    async with full_queue() as (queue, nursery):

        async def work(name: str) -> None:
            await queue.take(1)
            served.append(name)

        async with trio.open_nursery() as leaving:
            leaving.start_soon(work, "left")
            await wait_all_tasks_blocked()
            leaving.cancel_scope.cancel()
        nursery.start_soon(work, "stayed")
        nursery.start_soon(queue.run)
        await wait_all_tasks_blocked()
        queue.spend(0, 1.0)
        nursery.start_soon(work, "came later")
        await wait_all_tasks_blocked()
    assert served == ["stayed", "came later"]


async def test_users_of_long_ago_are_forgotten() -> None:
    queue = FairQueue()
    for user in range(5000):
        queue.spend(user, 0.001)
        queue.after_io_wait(0)
        await queue.take(user)
    assert len(queue._used) <= 1025


async def test_the_time_of_a_turn_counts_once_however_it_ends() -> None:
    queue = FairQueue()
    turn = Turn(queue, 1)
    assert turn.take_at_once()
    begun = time.monotonic()
    while time.monotonic() < begun + 0.01:
        pass
    # As after an error in the middle of a turn: nothing has paused it.
    turn.resume()
    turn.pause()
    spent = queue._used[1]
    assert spent >= 0.01
    turn.pause()
    assert queue._used[1] == spent
