"""What only the trio client does: tasks share a connection, wait on it and are cancelled."""

import pytest
import trio
import trio.testing

import nsbroker
import nsbroker.client.asyncio
import nsbroker.client.trio
from nsbroker.errors import ConnectionLost
from tests.world import PATIENCE, Daemon, Sleeper


async def test_trio_tasks_share_a_connection(daemon: Daemon, sleeper: Sleeper) -> None:
    async with nsbroker.client.trio.connect(daemon.address) as broker, trio.open_nursery() as nursery:

        async def ask() -> None:
            for _ in range(20):
                with await broker.open(f"pid:{sleeper.pid}", "net") as ns:
                    assert ns.inode == sleeper.inode("net")

        for _ in range(10):
            nursery.start_soon(ask)


async def test_trio_calls_that_are_cancelled_leak_nothing(silent: str) -> None:
    async with nsbroker.client.trio.connect(silent) as broker:
        for _ in range(2):
            with trio.move_on_after(0.05) as scope:
                await broker.who_am_i()
            assert scope.cancelled_caught
    with pytest.raises(ConnectionLost, match="connect again"):
        await broker.who_am_i()


async def test_closing_a_trio_connection_wakes_a_waiting_task(silent: str) -> None:
    async with nsbroker.client.trio.connect(silent) as broker:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:

                async def wait() -> None:
                    with pytest.raises(ConnectionLost, match="closed meanwhile"):
                        await broker.who_am_i()

                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                broker.close()
