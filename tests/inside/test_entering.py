"""Moving the calling thread by a bare descriptor, and the host's namespace that `Namespace.call` gives to the function."""

import os
import socket
import threading
from collections.abc import Callable

import pytest

from nsbroker import inside
from nsbroker.errors import EnterFailed, InvalidType, NotANamespace
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace
from tests.world import Sleeper


def on_a_thread(function: Callable[[], object]) -> object:
    """Run `function` on a thread of its own, and return its result or its exception."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(function())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.parametrize("ns_type", ["net", "uts", "ipc"])
def test_setns_moves_the_calling_thread_and_it_alone(sleeper: Sleeper, ns_type: str) -> None:
    fd = os.open(f"/proc/{sleeper.pid}/ns/{ns_type}", os.O_RDONLY)

    def move() -> str:
        inside.setns(fd, ns_type)
        return os.readlink(f"/proc/thread-self/ns/{ns_type}")

    before = os.readlink(f"/proc/self/ns/{ns_type}")
    assert on_a_thread(move) == os.readlink(f"/proc/self/fd/{fd}") != before
    assert os.readlink(f"/proc/self/ns/{ns_type}") == before
    os.close(fd)


def test_setns_says_what_is_wrong_with_the_descriptor(sleeper: Sleeper) -> None:
    fd = os.open(f"/proc/{sleeper.pid}/ns/net", os.O_RDONLY)
    with pytest.raises(NotANamespace, match="a net namespace, not uts"):
        inside.setns(fd, "uts")
    with pytest.raises(InvalidType, match="cgroup, ipc, mnt"):
        inside.setns(fd, "network")
    os.close(fd)
    for number in (fd, -1, 2**40):
        with pytest.raises(ValueError, match="not open"):
            inside.setns(number, "net")
    with open(os.devnull) as file, pytest.raises(NotANamespace, match="/dev/null is no namespace"):
        inside.setns(file.fileno(), "net")
    with socket.socket() as sock, pytest.raises(NotANamespace, match="is no namespace"):
        inside.setns(sock.fileno(), "net")


@pytest.mark.parametrize("ns_type", ["user", "pid", "time"])
def test_setns_refuses_what_no_thread_can_enter(ns_type: str) -> None:
    with Namespace.current(ns_type) as ns, pytest.raises(EnterFailed, match="a thread cannot enter"):
        inside.setns(ns.fileno(), ns_type)


def test_the_function_gets_the_hosts_namespace_with_its_own_arguments(sleeper: Sleeper) -> None:
    def look(host: Namespace, *args: int) -> tuple[int, int, int, tuple[int, ...]]:
        with Namespace.current("net") as here:
            return host.fileno(), host.inode, here.inode, args

    with Namespace.from_pid(sleeper.pid, "net") as ns, Namespace.current("net") as own:
        fd, host, here, args = ns.call(look, 1, 2, pass_host=True)
    assert (host, here, args) == (own.inode, ns.inode, (1, 2))
    assert not os.path.exists(f"/proc/self/fd/{fd}")


def test_the_host_is_the_callers_also_in_a_nested_call(sleeper: Sleeper) -> None:
    """The function goes back to the host for a moment, from inside of inside."""

    def outer(host: Namespace) -> tuple[bool, bool]:
        with Sleeper() as other, Namespace.from_pid(other.pid, "net") as deeper:
            return deeper.call(inner, host, pass_host=True)

    def inner(between: Namespace, host: Namespace) -> tuple[bool, bool]:
        with Namespace.from_pid(sleeper.pid, "net") as expected, host.call(Namespace.current, NamespaceType.NET) as back:
            return between == expected, back == host

    with Namespace.from_pid(sleeper.pid, "net") as ns:
        results = ns.call(outer, pass_host=True)
    assert results == (True, True)


def test_the_host_is_closed_when_the_function_fails_or_cannot_run(sleeper: Sleeper) -> None:
    def fail(host: Namespace) -> None:
        raise KeyError(host.fileno())

    with Namespace.from_pid(sleeper.pid, "net") as ns:
        with pytest.raises(KeyError) as caught:
            ns.call(fail, pass_host=True)
        assert not os.path.exists(f"/proc/self/fd/{caught.value.args[0]}")
    with pytest.raises(ValueError, match="closed"):
        ns.call(fail, pass_host=True)
