"""The targets that are offered: what the user may open, within a second, and nothing when the broker is away."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from nsbroker.cli.completion import targets
from nsbroker.client import blocking
from nsbroker.model.identity import NamespaceType
from nsbroker.protocol.messages import HeldDescription
from tests.client.every_client import impostor, read_call
from tests.world import ALICE, SLOWNESS, Daemon, Sleeper, run_command


def offered(prefix: str, address: str, uid: int = 0) -> list[str]:
    done = run_command("completion", "targets", prefix, address=address, uid=uid)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.splitlines()


def test_kinds_are_offered_first(daemon: Daemon) -> None:
    assert {"self", "pid:", "name:", "container:", "docker:", "net:", "path:"} <= set(offered("", daemon.address))
    assert offered("cont", daemon.address)[:2] == ["container:", "containerd:"]
    assert offered("se", daemon.address) == ["self"]


def test_names_processes_and_ids_are_offered(daemon: Daemon, blue: Path, sleeper: Sleeper) -> None:
    with daemon.connect() as broker:
        for ns in broker.create(["uts"], name="lab").namespaces.values():
            ns.close()
    assert offered("name:", daemon.address) == ["name:lab", "name:blue"]
    assert offered("name:b", daemon.address) == ["name:blue"]
    assert f"net:[{os.stat(blue).st_ino}]" in offered("net:", daemon.address)
    assert f"pid:{sleeper.pid}" in offered(f"pid:{sleeper.pid}", daemon.address)
    assert offered("path:", daemon.address) == []


@pytest.mark.root
def test_a_user_is_offered_only_what_it_may_open(daemon: Daemon, blue: Path, sleeper: Sleeper) -> None:
    assert offered("name:", daemon.address, ALICE) == []
    with Sleeper(uid=ALICE) as hers:
        found = offered("pid:", daemon.address, ALICE)
    assert f"pid:{hers.pid}" in found
    assert f"pid:{sleeper.pid}" not in found


def test_nothing_is_said_when_the_broker_is_away_or_stopped(daemon: Daemon) -> None:
    assert offered("name:", "unix:/run/nowhere/socket") == []
    assert "pid:" in offered("", "unix:/run/nowhere/socket")
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        assert offered("name:", daemon.address) == []
        assert time.monotonic() - begun < (targets.TIME + 20) * SLOWNESS
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


def test_a_broker_that_always_says_a_little_more_is_not_listened_to_for_ever() -> None:
    def behave(sock: socket.socket) -> None:
        read_call(sock)
        while True:
            sock.sendall(b'{"continues":true}\0')
            time.sleep(0.05)

    with impostor(behave) as address:
        begun = time.monotonic()
        done = run_command("completion", "targets", "name:", address=address)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - begun < (targets.TIME + 20) * SLOWNESS


@pytest.mark.parametrize("name", ["$(touch x)", "a b", "`x`", "a;b", "a'b", "a\nb", "é"])
def test_names_that_a_shell_would_not_take_literally_are_not_offered(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    held = HeldDescription(name, 0, NamespaceType.NET, 5, True)

    def behave(sock: socket.socket) -> None:
        while read_call(sock):
            sock.sendall(msgspec.json.encode({"parameters": {"held": held}}) + b"\0")

    with impostor(behave) as address:
        monkeypatch.setenv("NSBROKER_ADDRESS", address)
        assert targets.find("name:") == []


def test_when_the_time_is_up_the_rest_is_left_out_and_the_caller_is_not_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes while the second source is asked.  Later ones come while the caller uses what was found."""

    def late(_: object) -> list[str]:
        signal.raise_signal(signal.SIGALRM)
        return ["name:late"]

    monkeypatch.setattr(blocking, "connect", lambda **_: contextlib.nullcontext())
    monkeypatch.setattr(targets, "_sources", lambda _: (lambda _: ["name:b", "name:a"], late))
    signals: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: signals.append(number))
    try:
        found = []
        for target in targets.find("name:"):
            signal.raise_signal(signal.SIGALRM)
            found.append(target)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert (found, len(signals)) == (["name:a", "name:b"], 2)


def test_the_time_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSBROKER_ADDRESS", "unix:/run/nowhere/socket")
    before = signal.getsignal(signal.SIGALRM)
    assert targets.find("name:") == []
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_command_has_no_prefix_for_a_shell() -> None:
    done = run_command("completion", "bash", "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert subprocess.run(["bash", "-n"], input=run_command("completion", "bash").stdout, text=True, check=False).returncode == 0
