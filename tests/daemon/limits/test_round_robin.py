"""Round robin: each user's first waiting task in each pass."""

import trio
from trio.testing import wait_all_tasks_blocked

from nsbroker.daemon.limits.round_robin import RoundRobin


async def test_a_user_with_many_tasks_and_one_with_a_single_task_take_turns() -> None:
    turns = RoundRobin()
    served: list[int] = []

    async def work(user: int) -> None:
        await turns.turn(user)
        served.append(user)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(work, 1)
        nursery.start_soon(work, 2)
        await wait_all_tasks_blocked()
        nursery.start_soon(turns.run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert sorted(served[:2]) == [1, 2]
    assert served[2:] == [1, 1, 1, 1]


async def test_who_is_cancelled_while_waiting_takes_no_turn_away() -> None:
    turns = RoundRobin()
    served: list[str] = []

    async def work(name: str) -> None:
        await turns.turn(1)
        served.append(name)

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as leaving:
            leaving.start_soon(work, "left")
            await wait_all_tasks_blocked()
            leaving.cancel_scope.cancel()
        nursery.start_soon(work, "stayed")
        nursery.start_soon(turns.run)
        await wait_all_tasks_blocked()
        nursery.start_soon(work, "came later")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert served == ["stayed", "came later"]
