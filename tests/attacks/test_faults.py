"""Errors are forced at each step of a call: each must refuse the call and leave nothing open (a fixture checks that)."""

import errno
import gc
import os
import socket
import threading
import warnings
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from nsbroker.daemon.methods import plain_open, socket_maker
from nsbroker.daemon.methods.call import Reply
from nsbroker.daemon.targets import pinned
from nsbroker.linux import descriptors, setns, socket_options
from nsbroker.linux import process as process_module
from nsbroker.linux.features import Features, features
from nsbroker.linux.pidfd import ProcessInfo
from nsbroker.linux.process import Process
from nsbroker.namespace import Namespace
from nsbroker.varlink.connection import IncomingCall
from nsbroker.varlink.message import decode_call
from tests.daemon.one_caller import ERRORS, OneCaller
from tests.snapshot import thread_names
from tests.world import PATIENCE, Sleeper, eventually

RULE = '[[allow]]\nname = "all"\nwho = "everyone"\ntargets = ["{}"]\nnamespaces = ["*"]\nsockets = ["*"]\n'
BY_NAME, OWN = RULE.format("pid:*"), RULE.format("own")
"""A process that a rule names is not asked whose it is."""


@pytest.fixture(params=[BY_NAME, OWN], ids=["by name", "own"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OneCaller]:
    bench = OneCaller(tmp_path, request.param)
    yield bench
    bench.close()


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    """A process without capabilities, so that its user may open its namespaces without capabilities, too."""
    with Sleeper("--net --uts --ipc setpriv --bounding-set=-all --inh-caps=-all") as process:
        yield process


by_name = pytest.mark.parametrize("bench", [BY_NAME], indirect=True, ids=["by name"])
own = pytest.mark.parametrize("bench", [OWN], indirect=True, ids=["own"])


NEWER = {"nsbroker.linux.pidfd.info": "pidfd_info", "nsbroker.linux.pidfd.open_namespace": "pidfd_namespaces"}
OLDER = ["nsbroker.linux.procfs.status", "nsbroker.linux.procfs.open_namespace"]
"""What is called instead where the kernel does not have these."""
STEPS = [
    *OLDER,
    "os.pidfd_open",
    "nsbroker.linux.process.Process.info",
    "nsbroker.linux.process.Process.open_namespace",
    "nsbroker.linux.process.Process.has_ended",
    *NEWER,
    "nsbroker.linux.nsfs.device",
    "os.fstat",
    "nsbroker.daemon.limits.connections.UserRegistry.check",
    "nsbroker.daemon.policy.rules.Policy.grants",
    "nsbroker.daemon.policy.rules.Grants.verdict",
    "nsbroker.daemon.audit.Audit.record",
]


@pytest.mark.parametrize("error", ERRORS, ids=str)
@pytest.mark.parametrize("step", STEPS)
@own
def test_an_error_at_any_step_refuses_the_call_and_leaks_nothing(
    bench: OneCaller, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    if step in OLDER:
        monkeypatch.setattr(process_module, "features", Features)
    elif step in NEWER and not getattr(features(), NEWER[step]):
        pytest.skip(f"this kernel cannot do {step}")
    reply = bench.open(sleeper.pid)
    assert reply.error is None
    descriptors.close_all(reply.fds)

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        reply = bench.open(sleeper.pid)
    assert reply.error is not None
    assert list(reply.fds) == []
    # The next call succeeds like the first.
    reply = bench.open(sleeper.pid)
    assert reply.error is None
    descriptors.close_all(reply.fds)


@own
def test_a_target_that_changes_between_look_and_open_is_refused(
    bench: OneCaller, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process changes its user while its namespaces are opened."""
    real = Process.info
    looks: list[ProcessInfo] = []

    def changing(process: Process) -> ProcessInfo:
        now = real(process)
        looks.append(now)
        return now if len(looks) % 2 else ProcessInfo(now.pid, now.tgid, (0, 4001, 0, 0))

    monkeypatch.setattr(Process, "info", changing)
    reply = bench.open(sleeper.pid)
    assert reply.error == "io.nsbroker.Broker.TargetChanged"
    assert list(reply.fds) == []
    assert bench.records[-1].verdict == "failed"


@by_name
def test_a_target_that_ends_between_look_and_open_is_refused(
    bench: OneCaller, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pinned.PinnedProcess.open

    def too_late(process: pinned.PinnedProcess, ns_type: Any) -> Namespace:
        ns = real(process, ns_type)
        sleeper.end()
        return ns

    # tests/daemon/methods/test_plain_open.py has the same for a plain call.
    monkeypatch.setattr(plain_open, "features", Features)
    monkeypatch.setattr(pinned.PinnedProcess, "open", too_late)
    reply = bench.open(sleeper.pid)
    assert reply.error == "io.nsbroker.Broker.NoSuchTarget"
    assert list(reply.fds) == []


async def open_socket(bench: OneCaller, pid: int) -> Reply:
    parameters = b'{"target":{"pid":%d},"family":"unix","type":"stream"}' % pid
    data = b'{"method":"io.nsbroker.Broker.OpenSocket","parameters":%b}' % parameters
    result = bench.dispatcher.dispatch(bench.caller, IncomingCall(decode_call(data), []))
    reply = await result if isinstance(result, Coroutine) else result
    assert isinstance(reply, Reply)
    return reply


@pytest.fixture
def on_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each socket be made on a thread, as one that takes time is."""
    monkeypatch.setattr(socket_maker.SocketMaker, "takes_time", lambda *_: True)


def lives_in(reply: Reply, inode: int) -> bool:
    """Return whether the socket of a reply is in the network namespace with this inode.  Closes the socket."""
    with socket.socket(fileno=reply.fds[0]) as sock:
        fd = socket_options.network_namespace(sock)
        try:
            return os.fstat(fd).st_ino == inode
        finally:
            os.close(fd)


SOCKET_STEPS = [
    "nsbroker.linux.process.Process.open_namespace",
    "nsbroker.inside.visit.setns",
    "nsbroker.daemon.methods.socket_maker._create_socket",
    "nsbroker.daemon.methods.socket_maker.network_namespace",
    "nsbroker.daemon.targets.pinned.PinnedProcess.check_unchanged",
    "nsbroker.daemon.audit.Audit.record",
]
IN_PLACE_STEPS = ["nsbroker.inside.in_place.os.open", "nsbroker.daemon.methods.socket_maker.acting_groups"]
THREAD_STEPS = ["nsbroker.inside.visit._duplicate_fds", "nsbroker.inside.visit.Visit.start"]


async def check_socket_step(
    bench: OneCaller, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        reply = await open_socket(bench, sleeper.pid)
    assert reply.error is not None
    assert list(reply.fds) == []
    assert lives_in(await open_socket(bench, sleeper.pid), sleeper.inode("net"))


@pytest.mark.parametrize("error", ERRORS, ids=str)
@pytest.mark.parametrize("step", SOCKET_STEPS + THREAD_STEPS)
@by_name
async def test_an_error_at_any_step_of_making_a_socket_refuses_the_call_and_leaks_nothing(
    bench: OneCaller, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch, on_thread: None, step: str, error: Exception
) -> None:
    await check_socket_step(bench, sleeper, monkeypatch, step, error)


@pytest.mark.parametrize("error", ERRORS, ids=str)
@pytest.mark.parametrize("step", SOCKET_STEPS + IN_PLACE_STEPS)
@by_name
async def test_an_error_at_any_step_of_making_a_socket_in_place_refuses_the_call_and_leaks_nothing(
    bench: OneCaller, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    before = os.stat("/proc/thread-self/ns/net").st_ino
    # The first socket of its kind is made on a thread.
    assert lives_in(await open_socket(bench, sleeper.pid), sleeper.inode("net"))
    await check_socket_step(bench, sleeper, monkeypatch, step, error)
    assert os.stat("/proc/thread-self/ns/net").st_ino == before


@by_name
async def test_a_thread_that_cannot_come_back_ends_and_the_next_calls_are_right(
    bench: OneCaller, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch, on_thread: None
) -> None:
    """The kernel refuses every return.  The sockets are still in the right namespace, and so is every pending one."""
    real = setns.setns
    entered = threading.local()

    def only_in(fd: int, flag: int) -> None:
        if getattr(entered, "once", False):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        entered.once = True
        real(fd, flag)

    with Sleeper() as other:
        with monkeypatch.context() as patch:
            patch.setattr("nsbroker.inside.visit.setns", only_in)
            for _ in range(20):
                for process in (sleeper, other):
                    assert lives_in(await open_socket(bench, process.pid), process.inode("net"))
        for _ in range(20):
            for process in (sleeper, other):
                assert lives_in(await open_socket(bench, process.pid), process.inode("net"))


@by_name
async def test_a_socket_that_was_created_elsewhere_is_not_handed_over(
    bench: OneCaller, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread does not enter the namespace.  Only the kernel, asked about the socket itself, can show that."""
    assert lives_in(await open_socket(bench, sleeper.pid), sleeper.inode("net"))
    monkeypatch.setattr("nsbroker.inside.visit.setns", lambda fd, flag: None)
    for takes_time in (True, False):
        monkeypatch.setattr(socket_maker.SocketMaker, "takes_time", lambda *_, answer=takes_time: answer)
        reply = await open_socket(bench, sleeper.pid)
        assert reply.error == "org.varlink.service.PermissionDenied"
        assert list(reply.fds) == []
        assert "was created in" in bench.records[-1].error


@by_name
async def test_a_target_that_ends_while_its_socket_is_made_is_refused(
    bench: OneCaller, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket_options.network_namespace

    def too_late(sock: socket.socket) -> int:
        sleeper.end()
        return real(sock)

    monkeypatch.setattr("nsbroker.daemon.methods.socket_maker.network_namespace", too_late)
    reply = await open_socket(bench, sleeper.pid)
    assert reply.error == "io.nsbroker.Broker.NoSuchTarget"


@by_name
async def test_a_socket_that_nobody_waits_for_any_more_is_closed(
    bench: OneCaller, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch, on_thread: None
) -> None:
    """The call is cancelled while its thread is inside the namespace."""
    real = socket_maker._create_socket
    inside, gone = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> socket.socket:
        inside.set()
        gone.wait(PATIENCE)
        return real(*arguments)

    monkeypatch.setattr("nsbroker.daemon.methods.socket_maker._create_socket", slow)
    with warnings.catch_warnings():
        # Only the garbage collector is left to close the socket, and it warns about that.
        warnings.simplefilter("ignore", ResourceWarning)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_socket, bench, sleeper.pid)
            await trio.to_thread.run_sync(inside.wait)
            nursery.cancel_scope.cancel()
        gone.set()
        await trio.to_thread.run_sync(lambda: eventually(lambda: not visitors(), "the thread ends"))
        gc.collect()


def visitors() -> list[str]:
    return [name for name in thread_names() if name.startswith("inside")]
