"""`nsbroker doctor`: what it says with a broker and without one, as root and as another user."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from nsbroker.version import VERSION
from tests.world import ALICE, Daemon, run_command

NOWHERE = "unix:/run/nowhere/socket"


def rows(*options: str, code: int, address: str, uid: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Run the command with --json, check its exit code, and return the rows by subject."""
    # A forked program is not dumpable after it has changed its uid, so another user gets one that is executed.
    executed = {"cwd": "/"} if uid else {}
    done = run_command("doctor", "--json", *options, address=address, uid=uid, **executed)
    assert (done.returncode, done.stderr) == (code, ""), done
    found: dict[str, list[dict[str, Any]]] = {}
    for row in json.loads(done.stdout):
        assert row["verdict"] in ("ok", "warn", "fail")
        # Whatever is not well comes with what to do, or says it itself.
        assert row["verdict"] == "ok" or row["advice"] or ": " in row["text"], row
        found.setdefault(row["subject"], []).append(row)
    return found


def test_all_subjects_are_checked_with_a_broker(daemon: Daemon) -> None:
    found = rows(code=0, address=daemon.address)
    assert set(found) == {"broker", "start", "version", "units", "configuration", "kernel", "engines", "you", "rights"}
    assert daemon.address in found["broker"][0]["text"]
    assert found["version"][0] == {
        "verdict": "ok",
        "subject": "version",
        "text": f"the broker and this command are {VERSION}",
        "advice": "",
    }
    assert f"uid {os.geteuid()} " in found["you"][0]["text"]
    assert "by the rule root" in found["rights"][0]["text"]
    assert "containers that you may open" in found["engines"][0]["text"] or "no container" in found["engines"][0]["text"]


def test_each_row_is_a_line_that_begins_with_its_verdict(daemon: Daemon) -> None:
    done = run_command("doctor", address=daemon.address)
    assert (done.returncode, done.stderr) == (0, "")
    for line in done.stdout.splitlines():
        verdict, subject, text = line.split(maxsplit=2)
        assert verdict in ("ok", "warn")
        assert subject
        assert text
    assert "\x1b" not in done.stdout


def test_without_a_broker_it_says_what_to_start_and_checks_the_rest(tmp_path: Path) -> None:
    found = rows(code=1, address=NOWHERE)
    assert set(found) == {"broker", "units", "configuration", "kernel"}
    [row] = found["broker"]
    assert row["verdict"] == "fail"
    assert "no broker at /run/nowhere/socket" in row["text"]
    assert "systemctl enable --now nsbroker.socket" in row["advice"]


@pytest.mark.root
def test_a_user_is_told_what_the_broker_says(daemon: Daemon) -> None:
    found = rows(code=0, address=daemon.address, uid=ALICE)
    assert "by the rule own" in found["rights"][0]["text"]
    assert f"uid {ALICE} " in found["you"][0]["text"]
    assert "the broker has 2 rules" in found["configuration"][0]["text"]
    assert set(rows(code=1, address=NOWHERE, uid=ALICE)) == {"broker", "units", "kernel"}


@pytest.mark.root
def test_a_socket_that_a_user_may_not_use_is_named_with_who_decides(daemon: Daemon) -> None:
    daemon.socket.chmod(0o600)
    [row] = rows(code=1, address=daemon.address, uid=ALICE)["broker"]
    assert "SocketGroup=" in row["advice"]


def test_a_stopped_broker_is_recognized(daemon: Daemon) -> None:
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        found = rows("--timeout", "0.3", code=1, address=daemon.address)
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    assert "did not answer within 0.3 s" in found["broker"][0]["text"]
    assert found["broker"][0]["advice"] == f"it is stopped by a signal: as root, run `kill -CONT {daemon.pid}`"
    assert f"process {daemon.pid} was started by hand" in found["start"][0]["text"]


def test_a_user_whom_no_rule_fits_is_told_whom_to_ask(daemon: Daemon) -> None:
    (daemon.config / "nsbroker.toml").write_text("")
    daemon.reload()
    [row] = rows(code=0, address=daemon.address)["rights"]
    assert row["verdict"] == "warn"
    assert "nsbroker grant" in row["advice"]
