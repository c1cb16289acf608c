"""Functions run inside a network namespace, a few at a time, and a thread that cannot go back is logged."""

import os
import threading
import time
from collections.abc import Callable

import pytest
import trio

from nsbroker.daemon.methods.visits import Visits
from nsbroker.linux.setns import setns
from nsbroker.namespace import Namespace
from tests.world import PATIENCE, Sleeper

pytestmark = pytest.mark.root


def here() -> str:
    return os.readlink("/proc/thread-self/ns/net")


async def test_functions_run_inside_and_at_most_so_many_at_a_time() -> None:
    inside, most = 0, 0
    lock = threading.Lock()

    def work() -> str:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.02)
        with lock:
            inside -= 1
        return here()

    found: list[str] = []
    with Sleeper(unshare="--net") as sleeper, Namespace.from_pid(sleeper.pid, "net") as ns:
        visits = Visits(2)

        async def call() -> None:
            found.append(await visits.call(ns, work))

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(call)
        assert found == [str(ns)] * 6
    assert most == 2


async def test_the_result_of_a_thread_that_cannot_go_back_is_returned_and_that_is_logged(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The way back is made to fail: it never fails where the broker runs as the host's root."""
    moves: list[int] = []

    def refuse_second(fd: int, flag: int) -> None:
        moves.append(flag)
        if len(moves) == 2:
            raise OSError(1, "Operation not permitted")
        setns(fd, flag)

    monkeypatch.setattr("nsbroker.inside.visit.setns", refuse_second)
    with Sleeper(unshare="--net") as sleeper, Namespace.from_pid(sleeper.pid, "net") as ns:
        assert await Visits(1).call(ns, here) == str(ns)
    assert "could not go back to its net namespace" in capfd.readouterr().err


async def test_an_error_of_the_function_is_raised_as_it_is() -> None:
    with Sleeper(unshare="--net") as sleeper, Namespace.from_pid(sleeper.pid, "net") as ns, pytest.raises(ZeroDivisionError):
        await Visits(1).call(ns, lambda: 1 // 0)


async def test_whoever_waits_for_a_free_visit_can_be_cancelled_but_not_what_has_begun() -> None:
    done: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        go_on.wait(PATIENCE)
        done.append("first")

    with Sleeper(unshare="--net") as sleeper, Namespace.from_pid(sleeper.pid, "net") as ns:
        visits = Visits(1)

        async def call(function: Callable[[], None]) -> None:
            await visits.call(ns, function, to_its_end=True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, first)
            await trio.to_thread.run_sync(begun.wait, PATIENCE)
            with trio.move_on_after(0.05) as waiting:
                await call(lambda: done.append("second"))
            assert waiting.cancelled_caught
            nursery.cancel_scope.cancel()
            go_on.set()
    assert done == ["first"]
