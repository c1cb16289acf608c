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
    assert not poll._looking._users


async def test_each_time_the_state_is_over_one_task_goes_on_and_no_more_than_one_other_looks(autojump_clock: MockClock) -> None:
    """Whoever goes on brings the state back, as a connection does that receives the next descriptor that is slow to close."""
    state = State(1)
    poll = SharedPoll(state.lasts)
    gone: list[int] = []

    async def go_on(number: int) -> None:
        await poll.wait(1)
        state.keys.add(1)
        gone.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(255):
            nursery.start_soon(go_on, number)
            await wait_all_tasks_blocked()
        state.looks.clear()
        for count in range(1, 21):
            state.keys.clear()
            await trio.sleep(0.01)
            assert len(gone) == count
        # In 0.01 s there are five looks, and one more of the next task at once.
        assert state.looks[1] <= 20 * 7
        assert gone == list(range(20))
        nursery.cancel_scope.cancel()
    assert not poll._looking._users


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
    assert not poll._looking._users


async def test_what_is_over_already_is_not_waited_for() -> None:
    with trio.testing.assert_no_checkpoints():
        await SharedPoll(State().lasts).wait(1)
