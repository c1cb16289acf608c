"""Where records go: to the journal or to standard error, and what happens while neither takes them."""

import contextlib
import os
import socket
from pathlib import Path

import pytest

from nsbroker.client.blocking import Broker
from nsbroker.daemon import record_sink
from nsbroker.errors import RecordFailed
from tests.world import Daemon, Sleeper

IMPATIENT = "record-deadline = 0.2"


def test_every_kind_of_verdict_has_its_own_message_id_and_an_explanation_of_it() -> None:
    ids = [record_sink.ALLOWED, record_sink.DENIED, record_sink.FAILED, record_sink.SUPPRESSED, record_sink.EXPIRED]
    ids.append(record_sink.MALFORMED)
    assert len(set(ids)) == len(ids)
    assert all(len(bytes.fromhex(number)) == 16 for number in ids)
    catalog = (Path(__file__).parents[2] / "systemd/nsbroker.catalog").read_text()
    assert {line.removeprefix("-- ") for line in catalog.splitlines() if line.startswith("-- ")} == set(ids)


def fill(broker: Broker, target: str) -> int:
    """Open until the journal takes no more records, since nobody reads them.  Return how often opening succeeded."""
    for opened in range(10_000):
        try:
            broker.open(target, "net").close()
        except RecordFailed:
            return opened
    return 10_000


def test_calls_fail_while_the_journal_takes_no_records_and_that_is_logged_once(
    tmp_path: Path, journal: socket.socket, sleeper: Sleeper
) -> None:
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
        assert broker.who_am_i().uid == os.geteuid(), "calls without a record are answered as always"
        daemon.settles_at(before)
        journal.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                journal.recv(65536)
        broker.open(target, "net").close()
        assert "takes records again" in daemon.words()[-1]
        assert not broker.held(), "without a record, nothing is held"


def test_records_go_to_standard_error_instead_if_so_configured(tmp_path: Path, journal: socket.socket, sleeper: Sleeper) -> None:
    with Daemon(tmp_path, limits=IMPATIENT) as daemon:
        (daemon.config / "nsbroker.d/audit.toml").write_text('[audit]\nwithout-journal = "stderr"\n')
        daemon.reload()
        with daemon.connect() as broker:
            while not daemon.records():
                broker.open(f"pid:{sleeper.pid}", "net").close()
            assert daemon.records()[0]["verdict"] == "allowed"
            assert "they follow here" in daemon.words()[-1]
