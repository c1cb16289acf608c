"""Running a function inside namespaces: blocking, with trio and with asyncio."""

import asyncio
import concurrent.futures
import os
import resource
import socket
import subprocess
import threading
from collections.abc import Callable
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
from tests.world import ALICE, PATIENCE, Sleeper, as_user, eventually

Call = Callable[..., Any]


def on_trio(*arguments: Any) -> Any:
    return trio.run(nsbroker.inside.trio.call, *arguments)


def on_asyncio(*arguments: Any) -> Any:
    return asyncio.run(nsbroker.inside.asyncio.call(*arguments))


@pytest.fixture(params=[inside.call, on_trio, on_asyncio], ids=["blocking", "trio", "asyncio"])
def call(request: pytest.FixtureRequest) -> Call:
    function: Call = request.param
    return function


# Root inside `unshare -rmn` owns only its mnt and net namespaces.  It may not switch back to original namespaces of other types.
IN_USER_NAMESPACE = Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]


def run_in(call: Call, namespaces: list[Namespace], function: Call, *arguments: Any) -> Any:
    """Return the function's result, also when the kernel, as expected, does not let the thread switch back."""
    try:
        return call(namespaces, function, *arguments)
    except ReturnFailed as failure:
        if IN_USER_NAMESPACE and {ns.type for ns in namespaces} - {"mnt", "net"}:
            return failure.result
        raise


def here(*ns_types: str) -> list[str]:
    return [os.readlink(f"/proc/thread-self/ns/{ns_type}") for ns_type in ns_types]


def test_the_function_runs_inside_and_its_result_comes_back(call: Call, net: Namespace) -> None:
    before = here("net")
    assert call([net], here, "net") == [str(net)]
    assert here("net") == before


def test_several_namespaces_at_once(call: Call, net: Namespace, uts: Namespace) -> None:
    assert run_in(call, [net, uts], here, "net", "uts") == [str(net), str(uts)]


@pytest.mark.parametrize("ns_type", ["cgroup", "ipc", "mnt", "net", "uts"])
def test_every_type_that_a_thread_can_enter(call: Call, ns_type: str) -> None:
    with Namespace.create(ns_type) as ns, Namespace.current("net") as net:
        assert run_in(call, [ns, net] if ns_type != "net" else [ns], here, ns_type) == [str(ns)]


def test_a_socket_made_inside_lives_inside(net: Namespace) -> None:
    with net.call(socket.socket, socket.AF_INET, socket.SOCK_STREAM) as sock, pytest.raises(OSError, match="unreachable"):
        # In the new network namespace, the loopback interface is down.
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
    namespaces = [Namespace.create("net") for _ in range(200)]
    barrier = threading.Barrier(200)

    def look() -> list[str]:
        barrier.wait(2 * PATIENCE)
        return here("net")

    for _ in range(3):
        with concurrent.futures.ThreadPoolExecutor(200) as pool:
            found = list(pool.map(lambda ns: ns.call(look), namespaces))
        assert found == [[str(ns)] for ns in namespaces]
    for ns in namespaces:
        ns.close()


@pytest.mark.parametrize("ns_type", ["user", "pid", "time"])
def test_types_that_no_thread_can_enter_are_refused_with_an_alternative(call: Call, ns_type: str) -> None:
    with Namespace.current(ns_type) as ns, pytest.raises(EnterFailed, match="nsbroker exec"):
        call([ns], here)
    with Namespace.current(ns_type) as ns, pytest.raises(EnterFailed, match="nsbroker exec"):
        ns.set()


@pytest.mark.root
def test_entering_without_rights_names_the_capability(net: Namespace) -> None:
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
    # When the function fails too, its own exception is raised, with a note about the other failure.
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
        stop.wait(PATIENCE)
        found.append(here("net"))

    def start() -> threading.Thread:
        thread = threading.Thread(target=live)
        thread.start()
        return thread

    thread = net.call(start)
    stop.set()
    thread.join()
    assert found == [[str(net)]]


def test_at_the_limit_of_open_files_nothing_leaks(call: Call, net: Namespace, uts: Namespace) -> None:
    if call is not inside.call:
        # An event loop needs descriptors of its own, so only the blocking call is tested; the others use the same code.
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
            assert error.errno == 24, error  # noqa: PT017 - which of the five attempts fail is up to the kernel
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


def test_a_call_in_a_mount_namespace_sees_its_mounts_and_changes_nothing_outside(tmp_path: Any) -> None:
    with Sleeper("--mount") as sleeper, Namespace.from_pid(sleeper.pid, "mnt") as ns:
        script = f"mount -t tmpfs tmpfs {tmp_path}; touch {tmp_path}/inside"
        subprocess.run(["nsenter", f"--mount=/proc/{sleeper.pid}/ns/mnt", "sh", "-c", script], check=True)
        assert ns.call(os.listdir, str(tmp_path)) == ["inside"]
        assert os.listdir(tmp_path) == []
        cwd = os.getcwd()
        ns.call(os.chdir, "/")
        assert os.getcwd() == cwd


def test_the_thread_is_gone_afterwards(net: Namespace) -> None:
    tid = net.call(threading.get_native_id)
    eventually(lambda: not os.path.exists(f"/proc/self/task/{tid}"), "the thread ends")
