"""A capacity limit for each user: further things wait, for their own user alone."""

import pytest
import trio
import trio.testing

from nsbroker.daemon.limits.concurrency import UserCapacityLimiter
from tests.world import ALICE, BOB, PATIENCE


async def test_what_is_above_the_limit_of_a_user_waits_and_other_users_do_not() -> None:
    limiter = UserCapacityLimiter(2)
    running: list[int] = []
    go_on = trio.Event()

    async def work(uid: int) -> None:
        async with limiter.of(uid):
            running.append(uid)
            await go_on.wait()

    async with trio.open_nursery() as nursery:
        for uid in (ALICE, ALICE, ALICE, BOB):
            nursery.start_soon(work, uid)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(running) == [ALICE, ALICE, BOB]
        go_on.set()
    assert sorted(running) == [ALICE, ALICE, ALICE, BOB]


async def test_an_error_frees_the_place() -> None:
    limiter = UserCapacityLimiter(1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), trio.fail_after(PATIENCE):
            async with limiter.of(ALICE):
                raise ZeroDivisionError


async def test_a_task_that_is_cancelled_while_it_waits_takes_no_place() -> None:
    limiter = UserCapacityLimiter(1)
    go_on = trio.Event()

    async def hold() -> None:
        async with limiter.of(ALICE):
            await go_on.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.01) as scope:
            async with limiter.of(ALICE):
                raise AssertionError("it did not wait")
        assert scope.cancelled_caught
        go_on.set()
    with trio.fail_after(PATIENCE):
        async with limiter.of(ALICE):
            pass


async def test_a_user_is_forgotten_only_when_nothing_of_the_user_runs_or_waits() -> None:
    limiter = UserCapacityLimiter(1)
    order: list[str] = []

    async def work(name: str) -> None:
        async with limiter.of(ALICE):
            order.append(f"{name} begins")
            await trio.testing.wait_all_tasks_blocked()
            order.append(f"{name} ends")

    async with trio.open_nursery() as nursery:
        for name in ("a", "b", "c"):
            nursery.start_soon(work, name)
    assert [word for line in order for word in line.split()[1:]] == ["begins", "ends"] * 3
    assert limiter._users == {}


async def test_a_free_place_is_taken_without_a_pass_of_the_event_loop() -> None:
    limiter = UserCapacityLimiter(1)
    with trio.testing.assert_no_checkpoints():
        async with limiter.of(ALICE):
            pass


async def test_a_task_that_is_cancelled_does_not_make_the_limit_of_its_user_forgotten() -> None:
    limiter = UserCapacityLimiter(1)
    scope = trio.CancelScope()
    done: list[str] = []

    async def wait() -> None:
        with scope:
            async with limiter.of(ALICE):
                done.append("cancelled")

    async def come_later() -> None:
        async with limiter.of(ALICE):
            done.append("later")

    async with trio.open_nursery() as nursery:
        async with limiter.of(ALICE):
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
        async with limiter.of(ALICE):
            # Only now does the task run that was cancelled.
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(come_later)
            await trio.testing.wait_all_tasks_blocked()
            assert done == []
    assert done == ["later"]
    assert limiter._users == {}
