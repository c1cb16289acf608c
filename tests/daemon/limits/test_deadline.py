"""A deadline ends what takes longer, and leaves nothing in memory, with each version of Python."""

import pytest
import trio

from nsbroker.daemon.limits.deadline import Deadline, fail_after, fail_at
from tests.snapshot import no_garbage
from tests.world import PATIENCE

SHORT = 0.01


async def too_slow(deadline: Deadline) -> None:
    with pytest.raises(trio.TooSlowError), deadline:
        await trio.sleep(PATIENCE)


async def test_what_takes_longer_is_ended() -> None:
    await too_slow(fail_after(SHORT))
    await too_slow(fail_at(trio.current_time() + SHORT))
    await too_slow(fail_at(trio.current_time() - 1))


async def test_what_is_done_in_time_goes_on() -> None:
    for deadline in (fail_after(PATIENCE), fail_at(trio.current_time() + PATIENCE)):
        with deadline as scope:
            await trio.sleep(0)
        assert not scope.cancelled_caught
    # No wait is ended once the body is done.
    with fail_after(SHORT):
        pass
    await trio.sleep(2 * SHORT)


async def test_a_deadline_can_be_moved() -> None:
    async def wait() -> None:
        with fail_after(PATIENCE) as scope:
            scope.deadline = trio.current_time() + SHORT
            await trio.sleep(PATIENCE)

    with pytest.raises(trio.TooSlowError):
        await wait()


async def test_errors_and_other_cancellations_stay_what_they_are() -> None:
    with pytest.raises(KeyError), fail_after(PATIENCE):
        raise KeyError
    with trio.move_on_after(SHORT) as outer, fail_after(PATIENCE):
        await trio.sleep(PATIENCE)
    assert outer.cancelled_caught


async def test_nothing_is_left_for_the_garbage_collector() -> None:
    await too_slow(fail_after(SHORT))
    with no_garbage():
        for _ in range(3):
            await too_slow(fail_after(SHORT))
