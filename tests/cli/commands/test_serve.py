"""`nsbroker serve`, where it does not start."""

import os
from pathlib import Path

from tests.world import Daemon, run_command


def test_a_second_daemon_at_the_same_address_is_refused(daemon: Daemon) -> None:
    done = run_command("serve", "--address", daemon.address, "--config", str(daemon.config))
    *warnings, line = done.stderr.splitlines()
    assert (done.returncode, all("warning" in one for one in warnings)) == (1, True)
    assert "already running" in line
    with daemon.connect() as broker:
        broker.who_am_i()


def test_a_daemon_with_a_bad_policy_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "nsbroker.toml"
    path.write_text("[[allow]]\n[limits]\nconnections = 0\n")
    done = run_command("serve", "--address", f"unix:/run/never-{os.getpid()}/socket", "--config", str(path))
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (1, "", 4)
    assert [line.startswith(f"nsbroker: {path}:{number}: ") for line, number in zip(lines, (1, 1, 1, 3), strict=True)] == [True] * 4
