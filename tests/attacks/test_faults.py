"""Errors forced at each step of a call: every one is a no, and nothing stays open (the fixture of all tests counts)."""

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

from nsbroker.daemon import configuration
from nsbroker.daemon.audit import Audit
from nsbroker.daemon.context import Parts
from nsbroker.daemon.dispatcher import Broker
from nsbroker.daemon.engines.registry import Roster
from nsbroker.daemon.limits.abandonable_threads import AbandonableThreads
from nsbroker.daemon.limits.connections import UserRegistry
from nsbroker.daemon.limits.created import CreatedNamespaces
from nsbroker.daemon.methods import open_socket as open_socket_module
from nsbroker.daemon.methods.call import Answer, Caller
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.policy.rules import Policy
from nsbroker.daemon.record_sink import Record
from nsbroker.daemon.systemd.service_manager import FdStore
from nsbroker.daemon.targets import pinned
from nsbroker.daemon.targets.held_store import Holder
from nsbroker.linux import ancillary, setns, socket_options
from nsbroker.linux import process as process_module
from nsbroker.linux.features import Features, features
from nsbroker.linux.pidfd import ProcessInfo
from nsbroker.linux.process import Process
from nsbroker.namespace import Namespace
from nsbroker.varlink.connection import IncomingCall
from nsbroker.varlink.message import decode_call
from tests.world import Sleeper, eventually

RULE = '[[allow]]\nname = "all"\nwho = "everyone"\ntargets = ["pid:*"]\nnamespaces = ["*"]\nsockets = ["*"]\n'


class Sink:
    """Keeps records."""

    name = "a list"

    def __init__(self, records: list[Record]) -> None:
        self.write = records.append

    async def wait_writable(self) -> None:
        raise AssertionError("a list takes everything")


class Bench:
    """A broker without a server around it, with one caller, and the records it wrote."""

    def __init__(self, folder: Path) -> None:
        path = folder / "nsbroker.toml"
        path.write_text(RULE)
        settings = configuration.load(path)
        self.records: list[Record] = []
        users = UserRegistry(settings.limits)
        threads = AbandonableThreads(settings.limits.threads_per_user)
        self.broker = Broker(
            Parts(
                Policy(settings),
                Roster({}, 1.0, threads),
                Holder(FdStore(), 4),
                users,
                Audit(Sink(self.records), settings.audit, settings.limits),
                CreatedNamespaces(settings.limits.created_per_user),
                threads,
            )
        )
        self.ends = socket.socketpair()
        self.peer = Peer(self.ends[0])
        # Before Linux 6.5 root is nobody in particular, and waits for refusals.
        self.peer.anonymous = False
        self.caller = Caller(self.peer, users.admit(self.peer.uid, self.ends[0]))

    def open(self, pid: int) -> Answer:
        data = b'{"method":"io.nsbroker.Broker.Open","parameters":{"target":{"pid":%d},"types":["net","uts","ipc"]}}' % pid
        answer = self.broker.answer(self.caller, IncomingCall(decode_call(data), []))
        assert isinstance(answer, Answer)
        return answer

    def close(self) -> None:
        self.peer.close()
        for end in self.ends:
            end.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


NEWER = {"nsbroker.linux.pidfd.info": "pidfd_info", "nsbroker.linux.pidfd.open_namespace": "pidfd_namespaces"}
OLDER = ["nsbroker.linux.procfs.status", "nsbroker.linux.procfs.open_namespace"]
"""What is done in the place of those where the kernel does not have them."""
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
ERRORS = [
    *(OSError(number, os.strerror(number)) for number in (errno.EPERM, errno.ESRCH, errno.EMFILE, errno.EIO, errno.EINVAL)),
    ValueError("a fault of our own"),
]


@pytest.mark.parametrize("error", ERRORS, ids=str)
@pytest.mark.parametrize("step", STEPS)
def test_an_error_at_any_step_is_a_no_and_leaks_nothing(
    bench: Bench, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    if step in OLDER:
        monkeypatch.setattr(process_module, "features", Features)
    elif step in NEWER and not getattr(features(), NEWER[step]):
        pytest.skip(f"this kernel cannot do {step}")
    answer = bench.open(sleeper.pid)
    assert answer.error is None
    ancillary.close_all(answer.fds)

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        answer = bench.open(sleeper.pid)
    assert answer.error is not None
    assert list(answer.fds) == []
    # And the next call is as good as the first.
    answer = bench.open(sleeper.pid)
    assert answer.error is None
    ancillary.close_all(answer.fds)


def test_a_target_that_changes_between_look_and_open_is_refused(
    bench: Bench, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It becomes another user's while its namespaces are opened."""
    real = Process.info
    looks: list[ProcessInfo] = []

    def changing(process: Process) -> ProcessInfo:
        now = real(process)
        looks.append(now)
        return now if len(looks) % 2 else ProcessInfo(now.pid, now.tgid, (0, 4001, 0, 0))

    monkeypatch.setattr(Process, "info", changing)
    answer = bench.open(sleeper.pid)
    assert answer.error == "io.nsbroker.Broker.TargetChanged"
    assert list(answer.fds) == []
    assert bench.records[-1].verdict == "failed"


def test_a_target_that_ends_between_look_and_open_is_refused(
    bench: Bench, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pinned.PinnedProcess.open

    def too_late(process: pinned.PinnedProcess, kind: Any) -> Namespace:
        space = real(process, kind)
        sleeper.end()
        return space

    monkeypatch.setattr(pinned.PinnedProcess, "open", too_late)
    answer = bench.open(sleeper.pid)
    assert answer.error == "io.nsbroker.Broker.NoSuchTarget"
    assert list(answer.fds) == []


async def open_socket(bench: Bench, pid: int) -> Answer:
    parameters = b'{"target":{"pid":%d},"family":"unix","type":"stream"}' % pid
    data = b'{"method":"io.nsbroker.Broker.OpenSocket","parameters":%b}' % parameters
    later = bench.broker.answer(bench.caller, IncomingCall(decode_call(data), []))
    assert isinstance(later, Coroutine)
    answer = await later
    assert isinstance(answer, Answer)
    return answer


def lives_in(answer: Answer, inode: int) -> bool:
    """Whether the socket of an answer, which is closed, is in that network namespace."""
    with socket.socket(fileno=answer.fds[0]) as sock:
        fd = socket_options.network_namespace(sock)
        try:
            return os.fstat(fd).st_ino == inode
        finally:
            os.close(fd)


SOCKET_STEPS = [
    "nsbroker.linux.process.Process.open_namespace",
    "nsbroker.inside.visit.setns",
    "nsbroker.inside.visit._duplicates",
    "nsbroker.inside.visit.Visit.start",
    "nsbroker.daemon.methods.open_socket._socket",
    "nsbroker.daemon.methods.open_socket.network_namespace",
    "nsbroker.daemon.targets.pinned.PinnedProcess.see_unchanged",
    "nsbroker.daemon.audit.Audit.record",
]


@pytest.mark.parametrize("error", ERRORS, ids=str)
@pytest.mark.parametrize("step", SOCKET_STEPS)
async def test_an_error_at_any_step_of_making_a_socket_is_a_no_and_leaks_nothing(
    bench: Bench, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        answer = await open_socket(bench, sleeper.pid)
    assert answer.error is not None
    assert list(answer.fds) == []
    assert lives_in(await open_socket(bench, sleeper.pid), sleeper.inode("net"))


async def test_a_thread_that_cannot_come_back_ends_and_the_next_calls_are_right(
    bench: Bench, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel refuses every return; the sockets are where they should be all the same, and so is every later one."""
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


async def test_a_socket_that_came_to_life_elsewhere_is_not_handed_over(
    bench: Bench, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread stays where it was, and nobody notices but the kernel, which is asked of the socket itself."""
    monkeypatch.setattr("nsbroker.inside.visit.setns", lambda fd, flag: None)
    answer = await open_socket(bench, sleeper.pid)
    assert answer.error == "org.varlink.service.PermissionDenied"
    assert list(answer.fds) == []
    assert "came to life in" in bench.records[-1].error


async def test_a_target_that_ends_while_its_socket_is_made_is_refused(
    bench: Bench, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket_options.network_namespace

    def too_late(sock: socket.socket) -> int:
        sleeper.end()
        return real(sock)

    monkeypatch.setattr("nsbroker.daemon.methods.open_socket.network_namespace", too_late)
    answer = await open_socket(bench, sleeper.pid)
    assert answer.error == "io.nsbroker.Broker.NoSuchTarget"


async def test_a_socket_that_nobody_waits_for_any_more_is_closed(
    bench: Bench, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is cancelled while its thread is inside."""
    real = open_socket_module._socket
    inside, gone = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> socket.socket:
        inside.set()
        gone.wait(10)
        return real(*arguments)

    monkeypatch.setattr("nsbroker.daemon.methods.open_socket._socket", slow)
    with warnings.catch_warnings():
        # Nobody is left to close it but the collector, which says so.
        warnings.simplefilter("ignore", ResourceWarning)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_socket, bench, sleeper.pid)
            await trio.to_thread.run_sync(inside.wait)
            nursery.cancel_scope.cancel()
        gone.set()
        await trio.to_thread.run_sync(lambda: eventually(lambda: not visitors(), "the thread ends"))
        gc.collect()


def visitors() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("inside")]
