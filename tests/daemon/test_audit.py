"""Records in the journal's own form.  What stands on standard error is seen in the tests of the verbs."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.daemon import audit
from nsbroker.errors import NoSuchTarget
from tests.world import Daemon, Sleeper


@pytest.fixture
def journal() -> Iterator[socket.socket]:
    """A socket where journald's is.  A journald needs a booted systemd; what is sent to it is the same."""
    audit.JOURNAL_SOCKET.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(audit.JOURNAL_SOCKET))
        sock.settimeout(10)
        yield sock
    audit.JOURNAL_SOCKET.unlink()
    audit.JOURNAL_SOCKET.parent.rmdir()
    audit.JOURNAL_SOCKET.parent.parent.rmdir()


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
    assert (allowed["SYSLOG_IDENTIFIER"], allowed["PRIORITY"], allowed["MESSAGE_ID"]) == ("nsbroker", "6", audit.ALLOWED)
    assert (failed["PRIORITY"], failed["MESSAGE_ID"], failed["NSBROKER_VERDICT"]) == ("4", audit.FAILED, "failed")
    assert failed["NSBROKER_ERROR"].startswith("NoSuchTarget: name:green")


def test_every_kind_of_verdict_has_its_own_message_id() -> None:
    ids = [audit.ALLOWED, audit.DENIED, audit.FAILED]
    assert len(set(ids)) == 3
    assert all(len(bytes.fromhex(number)) == 16 for number in ids)
