"""Errors forced at each step of a call: every one is a no, and nothing stays open (the fixture of all tests counts)."""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nsbroker.daemon import configuration, resolve
from nsbroker.daemon.audit import Audit, Record
from nsbroker.daemon.broker import Broker
from nsbroker.daemon.call import Answer, Caller
from nsbroker.daemon.engines.roster import Roster
from nsbroker.daemon.held import Holder
from nsbroker.daemon.limits import Ledger
from nsbroker.daemon.parts import Parts
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.policy import Policy
from nsbroker.daemon.service import FdStore
from nsbroker.linux import ancillary
from nsbroker.linux.pidfd import ProcessInfo
from nsbroker.linux.process import Process
from nsbroker.namespace import Namespace
from nsbroker.varlink.connection import IncomingCall
from nsbroker.varlink.message import decode_call
from tests.world import Sleeper

RULE = '[[allow]]\nname = "all"\nwho = "everyone"\ntargets = ["pid:*"]\nnamespaces = ["*"]\n'


class Bench:
    """A broker without a server around it, with one caller, and the records it wrote."""

    def __init__(self, folder: Path) -> None:
        path = folder / "nsbroker.toml"
        path.write_text(RULE)
        settings = configuration.load(path)
        self.records: list[Record] = []
        ledger = Ledger(settings.limits)
        self.broker = Broker(Parts(Policy(settings), Roster({}, 1.0), Holder(FdStore(), 4), ledger, Audit(self.records.append)))
        self.ends = socket.socketpair()
        self.peer = Peer(self.ends[0])
        self.caller = Caller(self.peer, ledger.lease(self.peer.uid, self.ends[0]))

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


STEPS = [
    "os.pidfd_open",
    "nsbroker.linux.process.Process.info",
    "nsbroker.linux.process.Process.open_namespace",
    "nsbroker.linux.process.Process.has_ended",
    "nsbroker.linux.pidfd.info",
    "nsbroker.linux.pidfd.open_namespace",
    "nsbroker.linux.nsfs.device",
    "os.fstat",
    "nsbroker.daemon.limits.Ledger.check",
    "nsbroker.daemon.policy.Policy.grants",
    "nsbroker.daemon.policy.Grants.verdict",
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
    real = resolve.PinnedProcess.open

    def too_late(pinned: resolve.PinnedProcess, kind: Any) -> Namespace:
        space = real(pinned, kind)
        sleeper.end()
        return space

    monkeypatch.setattr(resolve.PinnedProcess, "open", too_late)
    answer = bench.open(sleeper.pid)
    assert answer.error == "io.nsbroker.Broker.NoSuchTarget"
    assert list(answer.fds) == []
