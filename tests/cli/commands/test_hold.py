"""`nsbroker hold`, with the other commands for held namespaces: create, list-held and release."""

import pytest

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
