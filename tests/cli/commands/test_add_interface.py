"""`nsbroker add-interface`."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import one_line
from tests.world import ALICE, Daemon, eventually, named_network, run_command

pytestmark = pytest.mark.root


@pytest.fixture
def green(blue: Path) -> Iterator[None]:
    """Another named network, beside blue."""
    with named_network("green"):
        yield


def links(name: str) -> str:
    return subprocess.run(["ip", "-n", name, "-o", "link"], capture_output=True, text=True, check=True).stdout


def test_a_veth_is_added_between_two_targets(daemon: Daemon, green: None) -> None:
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["name:*"], interfaces=["veth"])
    done = run_command("add-interface", "name:blue", "eth0", "--veth", "name:green:lab0", uid=ALICE, address=daemon.address)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert " eth0@" in links("blue")
    assert " lab0@" in links("green")
    again = run_command("add-interface", "name:blue", "eth0", "--veth", "name:green:lab1", uid=ALICE, address=daemon.address)
    line = one_line(again, 1)
    assert "cannot add the interface eth0 to name:blue: there is an interface with that name already" in line
    assert "lab1" not in links("green")


def test_a_command_gets_the_tap_as_systemd_passes_sockets(daemon: Daemon, blue: Path) -> None:
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["name:*"], interfaces=["tap"])
    script = "echo $LISTEN_FDS $LISTEN_FDNAMES $((LISTEN_PID == $$)); readlink /proc/$$/fd/3; grep iff: /proc/$$/fdinfo/3; exit 7"
    tap = ("add-interface", "name:blue", "tap0", "--tap")
    done = run_command(*tap, "--", "sh", "-c", script, uid=ALICE, address=daemon.address)
    assert done.returncode == 7, done.stderr
    assert done.stdout.splitlines()[:2] == ["1 tap0 1", "/dev/net/tun"]
    assert done.stdout.splitlines()[2].split() == ["iff:", "tap0"]
    eventually(lambda: "tap0" not in links("blue"), "the tap ends with the command")
    assert "cannot run '/nowhere'" in one_line(run_command(*tap, "--", "/nowhere", address=daemon.address), 127)


def test_what_no_rule_allows_is_refused_in_one_line(daemon: Daemon, green: None) -> None:
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["name:blue"], interfaces=["veth"])
    veth = ("add-interface", "name:blue", "eth0", "--veth", "name:green:lab0")
    line = one_line(run_command(*veth, uid=ALICE, address=daemon.address), 1)
    assert "add the veth eth0, with its other end lab0 in name:green, to name:blue: permission denied" in line
    assert "interfaces veth" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("name:blue", "eth0"), "one of the arguments --veth --tap is required"),
        (("name:blue", "eth0", "--veth", "name:green:e1", "--tap", "--", "true"), "not allowed with"),
        (("name:blue", "eth0", "--veth", "lab0"), "write the other target and the name of the interface there"),
        (("name:blue", "eth0", "--veth", "dcoker:web:lab0"), "dcoker"),
        (("name:blue", "eth0", "--veth", "name:green:"), "'' is no name of an interface"),
        (("name:blue", "x" * 16, "--veth", "name:green:e1"), "is no name of an interface: write 1 to 15 bytes"),
        (("name:blue", "all", "--tap", "--", "true"), "'all' is no name of an interface"),
        (("name:blue", "tap0", "--tap"), "COMMAND is missing"),
        (("name:blue", "tap0", "--tap", "--", ""), "COMMAND is empty"),
        (("name:blue", "eth0", "--veth", "name:green:e1", "--", "true"), "`--` can only be used with"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else "",
)
def test_wrong_usage_is_one_line(daemon: Daemon, arguments: tuple[str, ...], words: str) -> None:
    assert words in one_line(run_command("add-interface", *arguments, address=daemon.address), 2)
    assert not [record for record in daemon.records() if record["method"] == "AddInterface"]


def test_the_tap_of_a_command_that_ends_leaves_no_descriptor_in_the_daemon(daemon: Daemon, blue: Path) -> None:
    before = daemon.snapshot()
    for _ in range(3):
        assert run_command("add-interface", "name:blue", "tap0", "--tap", "--", "true", address=daemon.address).returncode == 0
        eventually(lambda: "tap0" not in links("blue"), "the tap ends with the command")
    daemon.settles_at(before)
