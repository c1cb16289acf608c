"""The supervisor as a trio task."""

import os
import subprocess
import sys

import pytest
import trio

import nsbroker.via.trio
from tests.snapshot import Snapshot
from tests.via.conftest import ADDRESS, Network
from tests.via.test_blocking import BIND
from tests.world import as_user

pytestmark = pytest.mark.root


async def read_all(process: trio.Process) -> str:
    assert process.stdout is not None
    return b"".join([piece async for piece in process.stdout]).decode()


async def test_programs_get_sockets_inside_while_other_tasks_run(network: Network) -> None:
    async def one() -> None:
        command = [sys.executable, "-c", BIND]
        async with nsbroker.via.trio.open_process(
            command, "name:blue", address=network.daemon.address, stdout=subprocess.PIPE
        ) as process:
            assert await read_all(process) == f"{ADDRESS}\n"
        assert process.returncode == 0

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(one)


async def test_it_serves_children_that_are_left_behind(network: Network) -> None:
    code = f"import os, time\nif os.fork() == 0:\n    time.sleep(0.3)\n    {BIND}"
    async with nsbroker.via.trio.open_process(
        [sys.executable, "-c", code], "name:blue", address=network.daemon.address, stdout=subprocess.PIPE
    ) as process:
        assert await process.wait() == 0
        assert await read_all(process) == f"{ADDRESS}\n"


async def test_a_forked_process_does_not_keep_the_listener_open(network: Network) -> None:
    async with nsbroker.via.trio.open_process(
        [sys.executable, "-c", f"input(); {BIND}"],
        "name:blue",
        address=network.daemon.address,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert "seccomp" in str(Snapshot.of(os.getpid()).fds)
        # Without a supervisor, the calls of the program have to fail.
        assert "seccomp" not in as_user(0, lambda: str(Snapshot.of(os.getpid()).fds))
        assert process.stdin is not None
        await process.stdin.send_all(b"\n")
        assert await read_all(process) == f"{ADDRESS}\n"


async def test_a_cancelled_block_kills_the_program(network: Network) -> None:
    with trio.CancelScope() as scope:
        async with nsbroker.via.trio.open_process(["sleep", "60"], "name:blue", address=network.daemon.address) as process:
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert process.returncode == -9


async def test_what_cannot_be_run_is_an_error(network: Network) -> None:
    with pytest.raises(FileNotFoundError):
        async with nsbroker.via.trio.open_process(["/nowhere"], "name:blue", address=network.daemon.address):
            raise AssertionError("it ran")
