"""Running code inside, in all three forms."""

import asyncio
import concurrent.futures
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

import nsbroker.inside.asyncio
import nsbroker.inside.trio
from nsbroker import inside
from nsbroker.errors import EnterFailed, ReturnFailed
from nsbroker.linux.setns import setns
from nsbroker.namespace import Namespace
from tests.world import ALICE, Sleeper, as_user, eventually

Call = Callable[..., Any]


def on_trio(*arguments: Any) -> Any:
    return trio.run(nsbroker.inside.trio.call, *arguments)


def on_asyncio(*arguments: Any) -> Any:
    return asyncio.run(nsbroker.inside.asyncio.call(*arguments))


@pytest.fixture(params=[inside.call, on_trio, on_asyncio], ids=["blocking", "trio", "asyncio"])
def call(request: pytest.FixtureRequest) -> Call:
    form: Call = request.param
    return form


@pytest.fixture
def net() -> Iterator[Namespace]:
    with Namespace.create("net") as space:
        yield space


@pytest.fixture
def uts() -> Iterator[Namespace]:
    with Namespace.create("uts") as space:
        yield space


# Root of `unshare -rmn` owns its mnt and net namespaces, and may not go back to others that it came from.
IN_USER_NAMESPACE = Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]


def run_in(call: Call, spaces: list[Namespace], function: Call, *arguments: Any) -> Any:
    """The function's result, also where the kernel is known not to let the thread go back."""
    try:
        return call(spaces, function, *arguments)
    except ReturnFailed as failure:
        if IN_USER_NAMESPACE and {space.type for space in spaces} - {"mnt", "net"}:
            return failure.result
        raise


def here(*kinds: str) -> list[str]:
    return [os.readlink(f"/proc/thread-self/ns/{kind}") for kind in kinds]


def test_the_function_runs_inside_and_its_result_comes_back(call: Call, net: Namespace) -> None:
    before = here("net")
    assert call([net], here, "net") == [str(net)]
    assert here("net") == before


def test_several_namespaces_at_once(call: Call, net: Namespace, uts: Namespace) -> None:
    assert run_in(call, [net, uts], here, "net", "uts") == [str(net), str(uts)]


@pytest.mark.parametrize("kind", ["cgroup", "ipc", "mnt", "net", "uts"])
def test_every_type_that_a_thread_can_enter(call: Call, kind: str) -> None:
    with Namespace.create(kind) as space, Namespace.current("net") as net:
        assert run_in(call, [space, net] if kind != "net" else [space], here, kind) == [str(space)]


def test_a_socket_made_inside_lives_inside(net: Namespace) -> None:
    with net.call(socket.socket, socket.AF_INET, socket.SOCK_STREAM) as sock, pytest.raises(OSError, match="unreachable"):
        # The new network's loopback is down.
        sock.connect(("127.0.0.1", 1))


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3), KeyboardInterrupt()])
def test_what_the_function_raises_comes_back_as_it_is(call: Call, net: Namespace, error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        call([net], fail)
    if call is inside.call:
        assert caught.value is error


def test_nested(net: Namespace, uts: Namespace) -> None:
    with Namespace.create("net") as other:

        def outer() -> list[list[str]]:
            return [
                here("net", "uts"),
                run_in(inside.call, [uts], here, "net", "uts"),
                other.call(here, "net", "uts"),
                here("net", "uts"),
            ]

        own = here("uts")[0]
        assert net.call(outer) == [[str(net), own], [str(net), str(uts)], [str(other), own], [str(net), own]]


def test_two_hundred_at_once_three_times() -> None:
    spaces = [Namespace.create("net") for _ in range(200)]
    barrier = threading.Barrier(200)

    def look() -> list[str]:
        barrier.wait(30)
        return here("net")

    for _ in range(3):
        with concurrent.futures.ThreadPoolExecutor(200) as pool:
            found = list(pool.map(lambda space: space.call(look), spaces))
        assert found == [[str(space)] for space in spaces]
    for space in spaces:
        space.close()


async def test_a_trio_call_lets_other_tasks_go_on(net: Namespace) -> None:
    started, go_on = threading.Event(), threading.Event()

    def wait() -> str:
        started.set()
        go_on.wait(10)
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


def test_an_asyncio_call_lets_other_tasks_go_on(net: Namespace) -> None:
    started, go_on = threading.Event(), threading.Event()

    def wait() -> str:
        started.set()
        go_on.wait(10)
        return "done"

    async def main() -> str:
        task = asyncio.create_task(nsbroker.inside.asyncio.call([net], wait))
        while not started.is_set():
            await asyncio.sleep(0.001)
        go_on.set()
        return await task

    assert asyncio.run(main()) == "done"


@pytest.mark.parametrize("kind", ["user", "pid", "time"])
def test_what_no_thread_can_enter_is_refused_with_what_to_do_instead(call: Call, kind: str) -> None:
    with Namespace.current(kind) as space, pytest.raises(EnterFailed, match="nsbroker run"):
        call([space], here)
    with Namespace.current(kind) as space, pytest.raises(EnterFailed, match="nsbroker run"):
        space.set()


@pytest.mark.root
def test_entering_takes_rights_and_says_so(net: Namespace) -> None:
    def enter() -> None:
        with pytest.raises(EnterFailed, match="CAP_SYS_ADMIN"):
            net.call(here, "net")

    as_user(ALICE, enter)


def test_when_the_second_cannot_be_entered_the_function_does_not_run(
    net: Namespace, uts: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = setns

    def refuse(fd: int, flag: int) -> None:
        if flag == net.type.flag:
            raise OSError(22, "Invalid argument")
        real(fd, flag)

    monkeypatch.setattr("nsbroker.inside.visit.setns", refuse)
    ran: list[bool] = []
    with pytest.raises(EnterFailed, match="net namespace: Invalid argument"):
        inside.call([uts, net], ran.append, True)
    assert ran == []


def test_when_the_thread_cannot_go_back_it_ends_and_says_so(net: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    real = setns
    moves: list[int] = []

    def refuse_second(fd: int, flag: int) -> None:
        moves.append(flag)
        if len(moves) % 2 == 0:
            raise OSError(1, "Operation not permitted")
        real(fd, flag)

    monkeypatch.setattr("nsbroker.inside.visit.setns", refuse_second)
    with pytest.raises(ReturnFailed, match="could not go back to its net namespace") as lost:
        net.call(here, "net")
    assert lost.value.result == [str(net)]
    # The function's own failure goes before, with a note of the other.
    with pytest.raises(ZeroDivisionError) as caught:
        net.call(lambda: 1 // 0)
    assert "could not go back" in caught.value.__notes__[0]
    monkeypatch.undo()
    assert net.call(here, "net") == [str(net)]


def test_a_closed_handle_and_two_of_one_type_are_refused(call: Call, net: Namespace) -> None:
    with Namespace.create("net") as other, pytest.raises(ValueError, match="in one only"):
        call([net, other], here)
    net.close()
    with pytest.raises(ValueError, match="closed"):
        call([net], here)


def test_the_function_may_close_the_handle(call: Call, net: Namespace) -> None:
    def close_and_look() -> list[str]:
        net.close()
        return here("net")

    name = str(net)
    assert call([net], close_and_look) == [name]


def test_threads_that_the_function_starts_stay_inside_until_they_end(net: Namespace) -> None:
    stop = threading.Event()
    found: list[list[str]] = []

    def live() -> None:
        stop.wait(10)
        found.append(here("net"))

    def start() -> threading.Thread:
        thread = threading.Thread(target=live)
        thread.start()
        return thread

    thread = net.call(start)
    stop.set()
    thread.join()
    assert found == [[str(net)]]


async def test_a_cancelled_trio_call_returns_at_once_and_the_thread_goes_on_alone(net: Namespace) -> None:
    go_on, ended = threading.Event(), threading.Event()

    def wait() -> None:
        go_on.wait(10)
        ended.set()

    with trio.move_on_after(0.05) as scope:
        await nsbroker.inside.trio.call([net], wait)
    assert scope.cancelled_caught
    go_on.set()
    with trio.fail_after(10):
        while not ended.is_set():
            await trio.sleep(0.001)


def test_a_cancelled_asyncio_call_returns_at_once_and_the_thread_goes_on_alone(net: Namespace) -> None:
    go_on, ended = threading.Event(), threading.Event()

    def wait() -> None:
        go_on.wait(10)
        ended.set()

    async def main() -> None:
        async with asyncio.timeout(0.05):
            await nsbroker.inside.asyncio.call([net], wait)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    go_on.set()
    assert ended.wait(10)


def test_an_interrupted_blocking_call_returns_and_does_not_keep_the_process_alive() -> None:
    code = """
import signal, sys, threading, time
from nsbroker.namespace import Namespace
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.2)
with Namespace.create("net") as space:
    try:
        space.call(time.sleep, 1000)
    except KeyboardInterrupt:
        print("interrupted")
"""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=20)
    assert (done.stdout, done.returncode) == ("interrupted\n", 0), done.stderr
    assert time.monotonic() - start < 10


def test_at_the_limit_of_open_files_nothing_leaks(call: Call, net: Namespace, uts: Namespace) -> None:
    if call is not inside.call:
        # A loop needs descriptors of its own: it is the same code below.
        assert call([net], here, "net") == [str(net)]
        return
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(net.fileno())
    os.close(lowest_free)
    for room in range(5):
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + room, before[1]))
        try:
            inside.call([net, uts], lambda: None)
        except ReturnFailed:
            if not IN_USER_NAMESPACE:
                raise
        except OSError as error:
            assert error.errno == 24, error  # noqa: PT017 - which of the five fails is the kernel's affair
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_set_moves_the_calling_thread_and_it_alone(net: Namespace) -> None:
    found: list[list[str]] = []

    def move() -> None:
        net.set()
        found.append(here("net"))

    thread = threading.Thread(target=move)
    thread.start()
    thread.join()
    assert found == [[str(net)]]
    assert here("net") != [str(net)]


def test_into_the_mount_namespace_of_a_process_and_out_of_sight(tmp_path: Any) -> None:
    with Sleeper("--mount") as sleeper, Namespace.from_pid(sleeper.pid, "mnt") as space:
        script = f"mount -t tmpfs tmpfs {tmp_path}; touch {tmp_path}/inside"
        subprocess.run(["nsenter", f"--mount=/proc/{sleeper.pid}/ns/mnt", "sh", "-c", script], check=True)
        assert space.call(os.listdir, str(tmp_path)) == ["inside"]
        assert os.listdir(tmp_path) == []
        cwd = os.getcwd()
        space.call(os.chdir, "/")
        assert os.getcwd() == cwd


def test_the_thread_is_gone_afterwards(net: Namespace) -> None:
    tid = net.call(threading.get_native_id)
    eventually(lambda: not os.path.exists(f"/proc/self/task/{tid}"), "the thread ends")
