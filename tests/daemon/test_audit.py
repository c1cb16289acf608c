"""Records in the journal's own form.  What stands on standard error is seen in the tests of the verbs."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.client.blocking import Broker
from nsbroker.daemon import record_sink
from nsbroker.daemon.limits import rate_limit
from nsbroker.daemon.systemd import journal as journal_module
from nsbroker.errors import NoSuchTarget, PermissionDenied, RecordFailed
from tests.world import ALICE, Daemon, Sleeper, as_user

IMPATIENT = "record-deadline = 0.2"


@pytest.fixture
def journal() -> Iterator[socket.socket]:
    """A socket where journald's is.  A journald needs a booted systemd; what is sent to it is the same."""
    journal_module.PLACE.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(journal_module.PLACE))
        sock.settimeout(10)
        yield sock
    journal_module.PLACE.unlink()
    journal_module.PLACE.parent.rmdir()
    journal_module.PLACE.parent.parent.rmdir()


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
        "NSBROKER_VERB": "Open",
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


def test_every_kind_of_verdict_has_its_own_message_id() -> None:
    ids = [record_sink.ALLOWED, record_sink.DENIED, record_sink.FAILED, record_sink.FLOOD]
    assert len(set(ids)) == 4
    assert all(len(bytes.fromhex(number)) == 16 for number in ids)


def fill(broker: Broker, target: str) -> int:
    """Open until the journal takes no more, since nobody reads; how often it went well."""
    for opened in range(10_000):
        try:
            broker.open(target, "net").close()
        except RecordFailed:
            return opened
    return 10_000


def test_a_journal_that_takes_nothing_refuses_and_says_so_once(tmp_path: Path, journal: socket.socket, sleeper: Sleeper) -> None:
    target = f"pid:{sleeper.pid}"
    with Daemon(tmp_path, limits=IMPATIENT) as daemon, daemon.connect() as broker:
        opened = fill(broker, target)
        assert 5 < opened < 10_000
        before = daemon.snapshot()
        with pytest.raises(RecordFailed, match=r"the journal took no record within 0\.2 s"):
            broker.open(target, "net")
        assert [line for line in daemon.words() if "journal" in line] == [
            "nsbroker: the journal takes no records (it does not read them): nothing is opened until it does"
        ]
        with pytest.raises(RecordFailed):
            broker.create(["uts"], name="lab")
        assert broker.who_am_i().uid == os.geteuid(), "what is not recorded is answered as ever"
        daemon.settles_at(before)
        journal.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                journal.recv(65536)
        broker.open(target, "net").close()
        assert "takes records again" in daemon.words()[-1]
        assert not broker.held(), "without a record nothing was held either"


def test_where_it_is_configured_so_standard_error_takes_what_the_journal_does_not(
    tmp_path: Path, journal: socket.socket, sleeper: Sleeper
) -> None:
    with Daemon(tmp_path, limits=IMPATIENT) as daemon:
        (daemon.config / "nsbroker.d/audit.toml").write_text('[audit]\nwithout-journal = "stderr"\n')
        daemon.reload()
        with daemon.connect() as broker:
            while not daemon.records():
                broker.open(f"pid:{sleeper.pid}", "net").close()
            assert daemon.records()[0]["verdict"] == "allowed"
            assert "they follow here" in daemon.words()[-1]


@pytest.mark.root
def test_a_flood_of_refusals_is_counted_and_no_others_are(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:

        def knock() -> None:
            with daemon.connect() as broker:
                for _ in range(rate_limit.MOST + 150):
                    with contextlib.suppress(PermissionDenied):
                        broker.open("name:secret", "net")

        as_user(ALICE, knock)
        with daemon.connect() as broker:
            broker.open("self", "net").close()
            with pytest.raises(NoSuchTarget):
                broker.open("name:green", "net")
        of_alice = [record for record in daemon.records() if record["peer_uid"] == ALICE]
        assert len(of_alice) == rate_limit.MOST
        assert [record["verdict"] for record in daemon.records()[-2:]] == ["allowed", "failed"]
        daemon.stop()
        last = daemon.records()[-1]
        assert (last["verdict"], last["peer_uid"], last["count"]) == ("flood", ALICE, 150)
