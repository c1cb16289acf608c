"""What only the asyncio client does: tasks share a connection, wait on it and are cancelled, and it connects again."""

import asyncio

import pytest

import nsbroker
import nsbroker.client.asyncio
import nsbroker.client.trio
from nsbroker.errors import ConnectionFailed, ConnectionLost
from tests.world import PATIENCE, Daemon, Sleeper


def test_asyncio_tasks_share_a_connection(daemon: Daemon, sleeper: Sleeper) -> None:
    async def main() -> None:
        async with nsbroker.client.asyncio.connect(daemon.address) as broker, asyncio.TaskGroup() as group:

            async def ask() -> None:
                for _ in range(20):
                    with await broker.open(f"pid:{sleeper.pid}", "net") as ns:
                        assert ns.inode == sleeper.inode("net")

            for _ in range(10):
                group.create_task(ask())

    asyncio.run(main())


def test_asyncio_calls_that_are_cancelled_leak_nothing(silent: str) -> None:
    async def main() -> None:
        async with nsbroker.client.asyncio.connect(silent) as broker:
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await broker.who_am_i()
        with pytest.raises(ConnectionLost, match="connect again"):
            await broker.who_am_i()

    asyncio.run(main())


def test_closing_an_asyncio_connection_wakes_a_waiting_task(silent: str) -> None:
    async def main() -> None:
        async with nsbroker.client.asyncio.connect(silent) as broker, asyncio.timeout(PATIENCE):
            waiting = asyncio.create_task(broker.who_am_i())
            await asyncio.sleep(0.05)
            broker.close()
            with pytest.raises(ConnectionLost, match="closed meanwhile"):
                await waiting

    asyncio.run(main())


def test_an_asyncio_connection_that_ended_between_two_calls_is_replaced(daemon: Daemon) -> None:
    async def main() -> None:
        async with nsbroker.client.asyncio.connect(daemon.address) as broker:
            await broker.who_am_i()
            daemon.stop()
            with pytest.raises(ConnectionFailed):
                await broker.who_am_i()
            daemon.start()
            await broker.who_am_i()

    asyncio.run(main())
