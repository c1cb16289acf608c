"""Where records go: to the journal or to standard error, and what happens while neither takes them."""

import contextlib
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from nsbroker.client.blocking import Broker
from nsbroker.daemon import record_sink
from nsbroker.daemon.record_sink import Record
from nsbroker.errors import NsbrokerError, RecordFailed
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace
from tests.world import Daemon, Sleeper

CATALOG = Path(__file__).parent.parent.parent / "systemd/nsbroker.catalog"
IMPATIENT = "record-deadline = 0.2"


def catalog() -> dict[str, str]:
    """Return the entries of the message catalog, by their message ids."""
    return {entry[:32]: entry[32:] for entry in re.split("^-- ", CATALOG.read_text(), flags=re.MULTILINE)[1:]}


def test_every_kind_of_verdict_has_its_own_message_id() -> None:
    ids = [record_sink.ALLOWED, record_sink.ALLOWED_WITHOUT_RULE, record_sink.DENIED, record_sink.FAILED]
    ids += [record_sink.SUPPRESSED, record_sink.EXPIRED, record_sink.MALFORMED]
    assert len(set(ids)) == len(ids)
    assert all(len(bytes.fromhex(number)) == 16 for number in ids)
    assert catalog().keys() == set(ids)


OPEN = Record("Open", "pid:4711", "allowed", "root", 0, 0, 7)
RECORDS = {
    "Open of pid:4711 was allowed to uid 0 by the rule root": OPEN,
    "Open of pid:4711 was allowed to uid 0 by the rules own, lab": replace(OPEN, rule="own lab"),
    "Open of pid:4711 was allowed to uid 0 (anonymous) by the rule root": replace(OPEN, peer_anonymous=True),
    "List of * was allowed to uid 1000": Record("List", "*", "allowed", "", 1000, 1000, 7),
    "Open of pid:4711 was denied to uid 0": replace(OPEN, verdict="denied", rule=""),
    "Open of pid:4711 was denied to uid 0 (NoSuchTarget: x)": replace(OPEN, verdict="denied", rule="", error="NoSuchTarget: x"),
    "Open of pid:4711 was allowed to uid 0 by the rule root, but failed: x": replace(OPEN, verdict="failed", error="x"),
    "Release of name:lab was allowed to uid 0, but failed: x": Record("Release", "name:lab", "failed", "", 0, 0, 7, error="x"),
    "150 more refused or failed calls of uid 5 were not written to the journal": Record(
        "", "", "suppressed", "", 5, None, None, count=150
    ),
    "a malformed message of uid 5, process 7 ended its connection: x": Record("", "", "malformed", "", 5, 5, 7, error="x"),
    "the rule lab has ended": Record("", "", "expired", "lab", None, None, None),
}


@pytest.mark.parametrize("sentence", RECORDS)
def test_the_message_of_a_record_is_a_sentence_and_the_catalog_uses_only_fields_that_it_has(sentence: str) -> None:
    fields = dict(record_sink._journal_fields(RECORDS[sentence]))
    assert fields["MESSAGE"] == sentence
    # journalctl -x prints the name of a field that the record lacks.
    assert set(re.findall("@([A-Z_]+)@", catalog()[fields["MESSAGE_ID"]])) <= fields.keys()


def close_all(opened: dict[NamespaceType, Namespace]) -> None:
    for ns in opened.values():
        ns.close()


def test_no_call_leaves_a_record_that_people_cannot_read(tmp_path: Path, journal: socket.socket, sleeper: Sleeper) -> None:
    target = f"pid:{sleeper.pid}"
    calls: list[Callable[[Broker], object]] = [
        lambda broker: broker.open(target, "net").close(),
        lambda broker: close_all(broker.open_all(target)),
        lambda broker: broker.socket(target).close(),
        lambda broker: broker.device(target, "null").close(),
        lambda broker: broker.devices(target),
        lambda broker: broker.file(target, "net/dev").close(),
        lambda broker: broker.explain(target),
        lambda broker: broker.explain(target, ["net"], sockets=["inet:stream"], devices=["null", "nothing"], files=["hosts"]),
        lambda broker: broker.explain(target, marks=[256], interfaces=["veth"], sockets=["inet:stream:80"]),
        lambda broker: broker.list(),
        lambda broker: broker.list(target=target),
        lambda broker: broker.containers(),
        lambda broker: broker.held(),
        lambda broker: close_all(broker.create(["uts"]).namespaces),
        lambda broker: close_all(broker.create(["uts"], name="lab").namespaces),
        lambda broker: broker.hold(target, "kept", ["uts"]),
        lambda broker: broker.release("lab"),
        lambda broker: broker.release("nothing"),
        lambda broker: broker.open("name:nothing", "net"),
        lambda broker: broker.device(target, "nothing"),
        lambda broker: broker.restrict([]),
    ]
    explanations, entries = catalog(), list[dict[str, str]]()
    journal.setblocking(False)
    with Daemon(tmp_path) as daemon, daemon.connect() as broker:
        # At the end the connection is restricted to nothing, so every call is refused.
        for call in (*calls, *calls):
            with contextlib.suppress(NsbrokerError):
                call(broker)
            # The queue of the socket has room for a few records only.
            with contextlib.suppress(BlockingIOError):
                while True:
                    entries.append(dict(line.split("=", 1) for line in journal.recv(65536).decode().splitlines()))
    verdicts = {entry["NSBROKER_VERDICT"] for entry in entries}
    assert verdicts == {"allowed", "denied", "failed"}
    assert {entry["NSBROKER_METHOD"] for entry in entries} >= {"OpenDevice", "ListDevices", "Explain", "Restrict", "Release"}
    for entry in entries:
        assert set(re.findall("@([A-Z_]+)@", explanations[entry["MESSAGE_ID"]])) <= entry.keys(), entry
        sentence = (
            r"[A-Z][A-Za-z]+ (\S.* )?of \S.* was (allowed|denied) to uid \d+( by the rules? [\w., -]+)?(, but failed: .+| \(.+\))?"
        )
        assert re.fullmatch(sentence, entry["MESSAGE"]), entry
        for value in entry.values():
            assert not re.search(r"[A-Z]\w*\([a-z_]+=|\bNone\b|<[A-Za-z]|NSBROKER_|frozenset", value), entry


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
