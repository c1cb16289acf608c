"""What only the trio conduit does: tasks wait on it, are woken and are cancelled."""

import os

import pytest
import trio
import trio.testing

import nsbroker.conduit.trio
from nsbroker.errors import ConduitClosed
from tests.conduit.conftest import null


async def test_closing_a_trio_conduit_wakes_the_task_that_waits_on_it() -> None:
    left, right = nsbroker.conduit.trio.Conduit.pair()
    with left, trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(ConduitClosed, match="meanwhile"):
                    await right.receive_fd()

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            right.close()


async def test_a_trio_receiver_that_is_cancelled_leaks_nothing() -> None:
    left, right = nsbroker.conduit.trio.Conduit.pair()
    with left, right:
        with trio.move_on_after(0.05) as scope:
            await right.receive_fd()
        assert scope.cancelled_caught
        await left.transfer_fd(null())
        os.close(await right.receive_fd())


async def test_a_trio_sender_waits_for_room() -> None:
    left, right = nsbroker.conduit.trio.Conduit.pair()
    with left, right:
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for _ in range(2000):
                    await left.transfer_fd(null())

            nursery.start_soon(send)
            for _ in range(2000):
                os.close(await right.receive_fd())
