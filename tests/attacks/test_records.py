"""Attacks on the audit records: a journal that others keep busy, and users who flood it with their own calls."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.daemon.limits import rate_limit
from nsbroker.daemon.systemd import journal
from tests.world import ALICE, BOB, SLOWNESS, Daemon, Sleeper, as_user, eventually

# One program reads as slowly as journald does, the other one floods.  They are processes, so that none waits for the
# interpreter of another.
READER = """
import os, socket, sys, time
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
print("ready", flush=True)
while True:
    if b"NSBROKER_PEER_UID=" + sys.argv[2].encode() in sock.recv(65536):
        print("record", flush=True)
    end = time.perf_counter() + 50e-6
    while time.perf_counter() < end:
        pass
"""
FLOODER = """
import socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
while True:
    sock.sendto(b"MESSAGE=" + b"x" * 500, sys.argv[1])
"""


def start(code: str, *arguments: str, uid: int = 0) -> subprocess.Popen[str]:
    drop = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
    return subprocess.Popen([*drop, sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> str:
    process.kill()
    output, _ = process.communicate()
    return output


@pytest.fixture
def busy_journal() -> Iterator[subprocess.Popen[str]]:
    """A stand-in for journald, which would need a booted systemd.  Four programs of another user flood it."""
    place = str(journal.PLACE)
    journal.PLACE.parent.mkdir(parents=True)
    reader = start(READER, place, str(ALICE))
    assert reader.stdout is not None
    reader.stdout.readline()
    flooders = [start(FLOODER, place, uid=BOB) for _ in range(4)]
    try:
        yield reader
    finally:
        for process in (*flooders, reader):
            if process.returncode is None:
                end(process)
        journal.PLACE.unlink()
        journal.PLACE.parent.rmdir()
        journal.PLACE.parent.parent.rmdir()


@pytest.mark.root
def test_a_flooded_journal_takes_every_record_and_nobody_is_refused(tmp_path: Path, busy_journal: subprocess.Popen[str]) -> None:
    assert busy_journal.stdout is not None
    pipe, written = busy_journal.stdout.fileno(), b""

    def all_are_written() -> bool:
        nonlocal written
        with contextlib.suppress(BlockingIOError):
            written += os.read(pipe, 65536)
        return written.count(b"record") >= 300

    with Daemon(tmp_path) as daemon, Sleeper(uid=ALICE) as hers:

        def ask() -> int:
            with daemon.connect() as broker:
                for _ in range(300):
                    broker.open(f"pid:{hers.pid}", "net").close()
            return os.getpid()

        as_user(ALICE, ask)
    # The last records may still be in the queue of the socket.
    os.set_blocking(pipe, False)
    eventually(all_are_written, "every record is in the journal")
    os.set_blocking(pipe, True)
    assert written.count(b"record") + end(busy_journal).count("record") == 300


@pytest.mark.root
def test_only_a_user_with_more_calls_than_the_limit_is_slowed_down(tmp_path: Path) -> None:
    with Daemon(tmp_path, limits="records-per-user = 300") as daemon, Sleeper(uid=ALICE) as hers, Sleeper(uid=BOB) as his:

        def ask(pid: int, count: int) -> float:
            with daemon.connect() as broker:
                began = time.monotonic()
                for _ in range(count):
                    broker.open(f"pid:{pid}", "net").close()
                return time.monotonic() - began

        # After the first 300, ten a second are allowed.
        slowed: list[float] = []
        thread = threading.Thread(target=lambda: slowed.append(as_user(ALICE, lambda: ask(hers.pid, 315))))
        thread.start()
        quick = as_user(BOB, lambda: ask(his.pid, 200))
        thread.join()
        # If both shared one limit, bob would wait for ten seconds.
        assert quick < 1.4 * SLOWNESS
        assert slowed[0] > 1.4
        records = daemon.records()
        counts = {uid: sum(one["peer_uid"] == uid for one in records) for uid in (ALICE, BOB)}
        assert counts == {ALICE: 315, BOB: 200}, "records were left out"


def test_each_user_has_a_pace_and_unused_calls_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = rate_limit.TokenBucket(30)
    for _ in range(30):
        assert pace.delay(1) == 0
        pace.charge(1)
    pace.charge(1)
    assert pace.delay(1) == pytest.approx(rate_limit.REFILL_TIME / 30)
    assert pace.delay(2) == 0
    now += rate_limit.REFILL_TIME / 30
    assert pace.delay(1) == pytest.approx(0)
    now += rate_limit.REFILL_TIME
    for _ in range(30):
        pace.charge(1)
    assert pace.delay(1) == pytest.approx(0)
