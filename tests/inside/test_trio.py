"""What only the call for trio does: other tasks go on, and it can be cancelled."""

import threading

import trio

import nsbroker.inside.asyncio
import nsbroker.inside.trio
from nsbroker.namespace import Namespace
from tests.world import PATIENCE


async def test_a_trio_call_lets_other_tasks_go_on(net: Namespace) -> None:
    started, go_on = threading.Event(), threading.Event()

    def wait() -> str:
        started.set()
        go_on.wait(PATIENCE)
        return "done"

    results: list[str] = []

    async def visit() -> None:
        results.append(await nsbroker.inside.trio.call([net], wait))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(visit)
        while not started.is_set():
            await trio.sleep(0.001)
        go_on.set()
    assert results == ["done"]


async def test_a_cancelled_trio_call_returns_at_once_and_the_thread_goes_on_alone(net: Namespace) -> None:
    go_on, ended = threading.Event(), threading.Event()

    def wait() -> None:
        go_on.wait(PATIENCE)
        ended.set()

    with trio.move_on_after(0.05) as scope:
        await nsbroker.inside.trio.call([net], wait)
    assert scope.cancelled_caught
    go_on.set()
    with trio.fail_after(PATIENCE):
        while not ended.is_set():
            await trio.sleep(0.001)
