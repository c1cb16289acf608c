"""`nsbroker hold`, with the other commands for held namespaces: create, list-held and release."""

import pytest

from tests.cli.conftest import one_line
from tests.world import Daemon, Sleeper, run_command

pytestmark = pytest.mark.root


def test_the_commands(daemon: Daemon, sleeper: Sleeper) -> None:
    created = run_command("create", "lab", "--type", "net", "--type", "uts", address=daemon.address)
    assert created.stdout.startswith("name:lab is net:["), created.stderr
    assert "until the broker ends" in created.stdout
    held = run_command("hold", f"pid:{sleeper.pid}", "kept", address=daemon.address)
    assert f"name:kept is net:[{sleeper.inode('net')}]" in held.stdout, held.stderr
    listed = run_command("list-held", address=daemon.address).stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["NAME", "kept", "lab", "lab"]
    assert f'"inode": {sleeper.inode("net")}' in run_command("list-held", "--json", address=daemon.address).stdout
    assert run_command("release", "lab", address=daemon.address).returncode == 0
    again = run_command("release", "lab", address=daemon.address)
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "nothing is held under that name" in again.stderr


def test_create_sets_the_loopback_interface_up(daemon: Daemon) -> None:
    def flags() -> str:
        script = "ip -o link show lo | cut -d' ' -f3"
        done = run_command("open", "name:lab", "--", "nsenter", "--net=/proc/self/fd/3", "sh", "-c", script, address=daemon.address)
        return done.stdout

    run_command("create", "lab", address=daemon.address)
    assert "UP" not in flags()
    run_command("release", "lab", address=daemon.address)
    done = run_command("create", "lab", "--up", address=daemon.address)
    assert done.stdout.startswith("name:lab is net:[")
    assert "LOOPBACK,UP" in flags()
    wrong = run_command("create", "other", "--up", "--type", "uts", address=daemon.address)
    assert "add --type net" in one_line(wrong, 2)
