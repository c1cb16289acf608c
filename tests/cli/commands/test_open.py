"""`nsbroker open`."""

from pathlib import Path

import pytest

from nsbroker.linux.features import features
from tests.cli.conftest import one_line
from tests.world import Daemon, Sleeper, run_command


@pytest.mark.root
def test_open_passes_the_namespace_as_descriptor_3(daemon: Daemon, blue: Path) -> None:
    done = run_command("open", "name:blue", "--", "sh", "-c", "readlink /proc/self/fd/3", address=daemon.address)
    # Before Linux 6.18 a descriptor shows the path by which it was opened.
    assert done.stdout == (f"net:[{blue.stat().st_ino}]\n" if features().namespace_id else f"{blue}\n")


def test_open_passes_several_namespaces_as_systemd_passes_sockets_and_nothing_else(daemon: Daemon, sleeper: Sleeper) -> None:
    script = "echo $LISTEN_FDS $LISTEN_FDNAMES $((LISTEN_PID == $$)); exec readlink /proc/self/fd/3 /proc/self/fd/4 /proc/self/fd/5"
    done = run_command(
        "open", f"pid:{sleeper.pid}", "--type", "uts", "--type", "net", "--", "sh", "-c", script, address=daemon.address
    )
    assert done.stdout.splitlines() == ["2 uts:net 1", f"uts:[{sleeper.inode('uts')}]", f"net:[{sleeper.inode('net')}]"]


def test_open_returns_the_exit_code_of_the_command(daemon: Daemon) -> None:
    assert run_command("open", "self", "--", "sh", "-c", "exit 7", address=daemon.address).returncode == 7
    assert "cannot run '/nowhere'" in one_line(run_command("open", "self", "--", "/nowhere", address=daemon.address), 127)
