"""What is special about the asyncio conduit: tasks that wait, take turns, are cancelled, or whose conduit is closed."""

import asyncio
import os

import pytest

from nsbroker.conduit.asyncio import Conduit
from nsbroker.errors import ConduitClosed
from tests.world import PATIENCE


def null() -> int:
    return os.open(os.devnull, os.O_RDONLY)


def test_closing_it_wakes_every_task_that_waits_on_it() -> None:
    async def main() -> None:
        left, right = Conduit.pair()
        with left:
            tasks = [asyncio.create_task(right.receive_fd()) for _ in range(3)]
            await asyncio.sleep(0.05)
            right.close()
            for task in tasks:
                with pytest.raises(ConduitClosed, match="closed"):
                    await task

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_a_closed_conduits_number_can_be_waited_on_by_another_one_at_once() -> None:
    """The reader of the closed conduit is removed from the loop before its descriptor is another file's."""

    async def main() -> None:
        left, right = Conduit.pair()
        task = asyncio.create_task(right.receive_fd())
        await asyncio.sleep(0.05)
        right.close()
        left.close()
        left, right = Conduit.pair()
        with left, right:
            waiting = asyncio.create_task(right.receive_fd())
            await asyncio.sleep(0.05)
            with pytest.raises(ConduitClosed):
                await task
            await left.transfer_fd(null())
            os.close(await waiting)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_a_receiver_that_is_cancelled_leaks_nothing() -> None:
    async def main() -> None:
        left, right = Conduit.pair()
        with left, right:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await right.receive_fd()
            await left.transfer_fd(null())
            os.close(await right.receive_fd())

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_a_sender_waits_for_room() -> None:
    async def main() -> None:
        left, right = Conduit.pair()

        async def send() -> None:
            for _ in range(2000):
                await left.transfer_fd(null())

        with left, right:
            sending = asyncio.create_task(send())
            for _ in range(2000):
                os.close(await right.receive_fd())
            await sending

    asyncio.run(asyncio.wait_for(main(), 2 * PATIENCE))


def test_tasks_take_turns() -> None:
    async def main() -> None:
        left, right = Conduit.pair()
        with left, right:
            receiving = [asyncio.create_task(right.receive_fd()) for _ in range(5)]
            await asyncio.sleep(0.05)
            await asyncio.gather(*(left.transfer_fd(null()) for _ in range(5)))
            received = await asyncio.gather(*receiving)
            assert len(set(received)) == 5
            for fd in received:
                os.close(fd)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
