"""Tasks that wait for the same thing share one poll."""

from collections import Counter

import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from nsbroker.daemon.limits.shared_poll import SharedPoll


class State:
    """Something that lasts for some keys, and counts how often it was looked at."""

    def __init__(self, *keys: int) -> None:
        self.keys = set(keys)
        self.looks: Counter[int] = Counter()

    def lasts(self, key: int) -> bool:
        self.looks[key] += 1
        return key in self.keys


async def test_hundreds_of_tasks_cost_no_more_than_one(autojump_clock: MockClock) -> None:
    state = State(1, 2)
    poll = SharedPoll(state.lasts)
    async with trio.open_nursery() as nursery:
        for _ in range(300):
            nursery.start_soon(poll.wait, 1)
        nursery.start_soon(poll.wait, 2)
        await trio.sleep(1)
        assert state.looks[1] < 300 + 600
        assert state.looks[2] < 600
        state.keys.remove(2)
        await trio.sleep(0.01)
        assert len(nursery.child_tasks) == 300
        state.keys.remove(1)
    assert poll._looks == {}


async def test_when_the_task_that_looks_is_cancelled_another_goes_on(autojump_clock: MockClock) -> None:
    state = State(1)
    poll = SharedPoll(state.lasts)
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as first:
            first.start_soon(poll.wait, 1)
            await wait_all_tasks_blocked()
            for _ in range(3):
                nursery.start_soon(poll.wait, 1)
            await wait_all_tasks_blocked()
            first.cancel_scope.cancel()
        await trio.sleep(1)
        assert len(nursery.child_tasks) == 3
        state.keys.clear()


async def test_what_is_over_already_is_not_waited_for() -> None:
    with trio.testing.assert_no_checkpoints():
        await SharedPoll(State().lasts).wait(1)
