"""The audit records: one for each verdict, as a journal entry or as a line on standard error, and a limit for each user."""

import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from nsbroker.client.blocking import connect
from nsbroker.daemon import record_sink
from nsbroker.daemon.audit import _REFUSALS_MAX, Audit
from nsbroker.daemon.configuration import AuditSettings, Limits
from nsbroker.daemon.limits import rate_limit
from nsbroker.daemon.limits.rate_limit import MOST
from nsbroker.daemon.record_queue import NOBODY
from nsbroker.daemon.record_sink import Record
from nsbroker.errors import NoSuchTarget, PermissionDenied
from tests.world import ALICE, BOB, Daemon, Sleeper, as_user


def entry(journal: socket.socket) -> dict[str, str]:
    lines = journal.recv(65536).decode().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_a_verdict_is_one_entry_with_its_fields(tmp_path: Path, journal: socket.socket, sleeper: Sleeper) -> None:
    with Daemon(tmp_path) as daemon, daemon.connect() as broker:
        broker.open(f"pid:{sleeper.pid}", "net").close()
        allowed = entry(journal)
        with pytest.raises(NoSuchTarget):
            broker.open("name:green", "net")
        failed = entry(journal)
        assert daemon.records() == [], "the journal has it: nothing goes to standard error"
    assert {name: allowed[name] for name in allowed if name.startswith("NSBROKER_")} == {
        "NSBROKER_METHOD": "Open",
        "NSBROKER_TARGET": f"pid:{sleeper.pid}",
        "NSBROKER_VERDICT": "allowed",
        "NSBROKER_RULE": "root",
        "NSBROKER_PEER_UID": str(os.geteuid()),
        "NSBROKER_PEER_GID": str(os.getegid()),
        "NSBROKER_PEER_PID": str(os.getpid()),
        "NSBROKER_NAMESPACES": f"net:[{sleeper.inode('net')}]",
    }
    assert (allowed["SYSLOG_IDENTIFIER"], allowed["PRIORITY"], allowed["MESSAGE_ID"]) == ("nsbroker", "6", record_sink.ALLOWED)
    assert (failed["PRIORITY"], failed["MESSAGE_ID"], failed["NSBROKER_VERDICT"]) == ("4", record_sink.FAILED, "failed")
    assert failed["NSBROKER_ERROR"].startswith("NoSuchTarget: name:green")
    uid = os.geteuid()
    assert allowed["MESSAGE"] == f"Open of pid:{sleeper.pid} was allowed to uid {uid} by the rule root"
    assert failed["MESSAGE"].startswith(
        f"Open net of name:green was allowed to uid {uid} by the rule root, but failed: NoSuchTarget: "
    )


@pytest.mark.root
def test_the_message_of_a_refusal_says_what_was_wanted(tmp_path: Path, journal: socket.socket) -> None:
    def ask() -> None:
        with connect(daemon.address) as broker:
            for call in (
                lambda: broker.open_all("name:green", ["net", "uts"]),
                lambda: broker.open_all("name:green"),
                lambda: broker.socket("name:green", socket.AF_INET, socket.SOCK_STREAM, mark=7),
                lambda: broker.device("name:green", "kvm", os.O_RDWR),
                lambda: broker.device("name:green", "null", os.O_RDONLY),
            ):
                with pytest.raises(PermissionDenied):
                    call()
            broker.explain("name:green", devices=["kvm"], interfaces=["veth"])

    with Daemon(tmp_path) as daemon:
        as_user(ALICE, ask)
        messages = [entry(journal)["MESSAGE"].partition(" (")[0] for _ in range(6)]
    assert messages == [
        f"{what} of name:green was denied to uid {ALICE}"
        for what in (
            "Open net uts",
            "Open every type",
            "OpenSocket inet:stream mark 0x7",
            "OpenDevice device kvm readWrite",
            "OpenDevice device null read",
            "Explain device kvm veth",
        )
    ]


def test_a_malformed_message_is_one_entry(tmp_path: Path, journal: socket.socket) -> None:
    with Daemon(tmp_path) as daemon, daemon.raw() as sock:
        sock.send(b'{"method":"a.B","x\\u001b":1}\0')
        malformed = entry(journal)
        assert malformed["MESSAGE"] == (
            f"a malformed message of uid {os.geteuid()}, process {os.getpid()} ended its connection: "
            "not a call: Object contains unknown field `x\\x1b`"
        )
    assert (malformed["PRIORITY"], malformed["MESSAGE_ID"]) == ("4", record_sink.MALFORMED)
    assert malformed["NSBROKER_PEER_UID"] == str(os.geteuid())
    assert "NSBROKER_METHOD" not in malformed


@pytest.mark.root
def test_refusals_above_the_limit_of_a_user_are_only_counted(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:

        def call_often() -> None:
            with daemon.connect() as broker:
                # They take a second: each comes at a hundredth of a second.  The limit is for ten seconds.
                for _ in range(rate_limit.MOST + 30):
                    with contextlib.suppress(PermissionDenied):
                        broker.open("name:secret", "net")

        as_user(ALICE, call_often)
        with daemon.connect() as broker:
            broker.open("self", "net").close()
            with pytest.raises(NoSuchTarget):
                broker.open("name:green", "net")
        of_alice = [record for record in daemon.records() if record["peer_uid"] == ALICE]
        assert len(of_alice) == rate_limit.MOST
        assert [record["verdict"] for record in daemon.records()[-2:]] == ["allowed", "failed"]
        daemon.stop()
        last = daemon.records()[-1]
        assert (last["verdict"], last["peer_uid"], last["count"]) == ("suppressed", ALICE, 30)


def test_every_verdict_is_one_record(daemon: Daemon, sleeper: Sleeper) -> None:
    with daemon.connect() as broker:
        broker.open(f"pid:{sleeper.pid}", "net").close()
        with pytest.raises(NoSuchTarget):
            broker.open("name:green", "net")
        broker.explain("self", ["uts"])
    records = daemon.records()
    assert [(record["method"], record["verdict"], record["rule"]) for record in records] == [
        ("Open", "allowed", "root"),
        ("Open", "failed", "root"),
        ("Explain", "allowed", "root"),
    ]
    assert records[0]["namespaces"] == f"net:[{sleeper.inode('net')}]"
    assert (records[0]["target"], records[0]["peer_pid"]) == (f"pid:{sleeper.pid}", os.getpid())
    assert "NoSuchTarget" in records[1]["error"]


class SlowSink:
    """Takes a record only after `wait_writable`, as a journal does whose queue is full."""

    name = "a slow journal"

    def __init__(self) -> None:
        self.written: list[Record] = []
        self._room = 0

    def write(self, record: Record) -> None:
        if not self._room:
            raise BlockingIOError
        self._room -= 1
        self.written.append(record)

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()
        self._room = 1


class Caller:
    """What a record says of a peer."""

    gid = pid = 1
    anonymous = False
    container = ""

    def __init__(self, uid: int) -> None:
        self.uid = self.user = uid

    def first_unit(self) -> None:
        """It has none."""


@pytest.fixture
def slow() -> tuple[Audit, SlowSink]:
    sink = SlowSink()
    return Audit(sink, AuditSettings(), Limits()), sink


async def call(audit: Audit, caller: Any, target: str) -> None:
    audit.record(caller, "Open", target, "allowed")
    if audit.is_pending(caller):
        await audit.settle(caller)


@pytest.mark.once
async def test_a_user_with_many_records_keeps_nobody_waiting(slow: tuple[Audit, SlowSink]) -> None:
    audit, sink = slow
    async with trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(call, audit, Caller(ALICE), f"a{number}")
        await trio.lowlevel.checkpoint()
        await call(audit, Caller(BOB), "b")
        before = len(sink.written)
        assert before < 100
    assert sorted(record.target for record in sink.written) == sorted(["b", *(f"a{number}" for number in range(300))])


@pytest.mark.once
async def test_when_the_call_that_writes_is_cancelled_another_goes_on(slow: tuple[Audit, SlowSink]) -> None:
    audit, sink = slow
    async with trio.open_nursery() as nursery, trio.open_nursery() as first:
        first.start_soon(call, audit, Caller(ALICE), "cancelled")
        await trio.lowlevel.checkpoint()
        for number in range(5):
            nursery.start_soon(call, audit, Caller(BOB), f"b{number}")
        first.cancel_scope.cancel()
    assert {record.target for record in sink.written} >= {f"b{number}" for number in range(5)}


@pytest.mark.once
async def test_a_call_that_is_cancelled_while_its_user_is_slowed_down_is_not_recorded_later() -> None:
    sink = SlowSink()
    audit = Audit(sink, AuditSettings(), Limits(records_per_user=1))
    sink._room = 1
    audit.record(cast(Any, Caller(ALICE)), "Open", "first", "allowed")
    with trio.move_on_after(0.01) as scope:
        await call(audit, Caller(ALICE), "cancelled")
    assert scope.cancelled_caught
    sink._room = 10
    audit.write_suppressed()
    assert [record.target for record in sink.written] == ["first"]


def test_a_number_of_suppressed_refusals_that_cannot_be_written_is_written_later() -> None:
    sink = BrokenSink()
    audit = Audit(sink, AuditSettings(without_journal="refuse"), Limits())
    caller: Any = Caller(ALICE)
    for _ in range(MOST + 7):
        audit.record(caller, "Open", "pid:1", "denied")
    sink.is_broken = True
    audit.write_suppressed(everyone=True)
    assert len(sink.written) == MOST
    sink.is_broken = False
    audit.write_suppressed()
    assert [(record.verdict, record.count) for record in sink.written[MOST:]] == [("suppressed", 7)]


def test_what_the_broker_records_about_itself_is_kept_however_many_refusals_wait(slow: tuple[Audit, SlowSink]) -> None:
    audit, sink = slow
    users = range(5000, 5000 + _REFUSALS_MAX // MOST + 1)

    def refuse(user: int, count: int) -> None:
        caller: Any = Caller(user)
        for _ in range(count):
            audit.record(caller, "Open", "pid:1", "denied")

    for user in users:
        refuse(user, MOST + 7)
    audit.write_suppressed(everyone=True)
    audit.record_expiry("old")
    for _ in range(10):
        refuse(5000, MOST + 1)
        audit.write_suppressed(everyone=True)
    assert len(audit._queue._users[NOBODY]) == len(users) + 1, "one for each user and for each rule that ended"
    sink._room = 2 * _REFUSALS_MAX
    audit.write_suppressed(everyone=True)
    assert sum(record.verdict == "denied" for record in sink.written) == _REFUSALS_MAX
    assert [record.rule for record in sink.written if record.verdict == "expired"] == ["old"]
    counts = [(record.peer_uid, record.count) for record in sink.written if record.verdict == "suppressed"]
    # The refusals that came meanwhile were counted together, as those of one time window.
    assert counts == [*((user, 7) for user in reversed(users)), (5000, 10 * (MOST + 1) - MOST)]


class BrokenSink(SlowSink):
    """Takes every record, or none."""

    is_broken = False

    def write(self, record: Record) -> None:
        if self.is_broken:
            raise OSError(errno.ECONNREFUSED, "nobody reads")
        self.written.append(record)
