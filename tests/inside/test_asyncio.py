"""What only the call for asyncio does: other tasks go on, and it can be cancelled."""

import asyncio
import threading

import pytest

import nsbroker.inside.asyncio
import nsbroker.inside.trio
from nsbroker.namespace import Namespace
from tests.world import PATIENCE


def test_an_asyncio_call_lets_other_tasks_go_on(net: Namespace) -> None:
    started, go_on = threading.Event(), threading.Event()

    def wait() -> str:
        started.set()
        go_on.wait(PATIENCE)
        return "done"

    async def main() -> str:
        task = asyncio.create_task(nsbroker.inside.asyncio.call([net], wait))
        while not started.is_set():
            await asyncio.sleep(0.001)
        go_on.set()
        return await task

    assert asyncio.run(main()) == "done"


def test_a_cancelled_asyncio_call_returns_at_once_and_the_thread_goes_on_alone(net: Namespace) -> None:
    go_on, ended = threading.Event(), threading.Event()

    def wait() -> None:
        go_on.wait(PATIENCE)
        ended.set()

    async def main() -> None:
        async with asyncio.timeout(0.05):
            await nsbroker.inside.asyncio.call([net], wait)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    go_on.set()
    assert ended.wait(PATIENCE)
