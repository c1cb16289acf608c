"""`nsbroker devices`, and what `nsbroker explain` says of devices and sockets."""

import json

import pytest

from tests.cli.test_command import one_line
from tests.world import ALICE, Daemon, Sleeper, run_command

pytestmark = pytest.mark.root


@pytest.fixture
def target(daemon: Daemon, sleeper: Sleeper) -> str:
    """A process of which ALICE may have two devices, one kind of socket and one namespace."""
    daemon.allow(
        "alice", who=[f"user:{ALICE}"], targets=["pid:*"], namespaces=["net"], sockets=["inet:stream"], devices=["zero", "null"]
    )
    return f"pid:{sleeper.pid}"


def test_devices_lists_those_that_a_rule_allows(daemon: Daemon, target: str) -> None:
    table = run_command("devices", target, uid=ALICE, address=daemon.address).stdout.splitlines()
    assert [line.split() for line in table] == [["NAME", "MAJOR", "MINOR"], ["null", "1", "3"], ["zero", "1", "5"]]
    listed = json.loads(run_command("devices", target, "--json", uid=ALICE, address=daemon.address).stdout)
    assert listed == [{"name": "null", "major": 1, "minor": 3}, {"name": "zero", "major": 1, "minor": 5}]


def test_root_sees_more_of_them(daemon: Daemon, target: str) -> None:
    listed = json.loads(run_command("devices", target, "--json", address=daemon.address).stdout)
    assert {"null", "zero", "full", "urandom"} <= {device["name"] for device in listed}


def test_devices_of_what_no_rule_allows_are_refused(daemon: Daemon, sleeper: Sleeper) -> None:
    line = one_line(run_command("devices", f"pid:{sleeper.pid}", uid=ALICE, address=daemon.address), 1)
    assert "permission denied" in line
    assert f"the devices of pid:{sleeper.pid}" in line


def test_a_namespace_alone_has_no_devices(daemon: Daemon, blue: None) -> None:
    assert "has no /dev" in one_line(run_command("devices", "name:blue", address=daemon.address), 1)


def test_explain_names_the_rule_for_each_socket_and_device(daemon: Daemon, target: str) -> None:
    asked = ["--type", "net", "--socket", "inet:stream", "--device", "null"]
    done = run_command("explain", target, *asked, uid=ALICE, address=daemon.address)
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["WHAT", "VERDICT", "RULE"],
        ["net", "allowed", "alice"],
        ["inet:stream", "allowed", "alice"],
        ["null", "allowed", "alice"],
    ]
    answer = json.loads(run_command("explain", target, *asked, "--json", uid=ALICE, address=daemon.address).stdout)
    assert answer["sockets"] == [{"name": "inet:stream", "allowed": True, "rule": "alice"}]
    assert answer["devices"] == [{"name": "null", "allowed": True, "rule": "alice"}]


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (["--socket", "inet:stream"], 0),
        (["--socket", "inet:stream:80"], 1),
        (["--device", "null"], 0),
        (["--device", "fuse"], 1),
        (["--socket", "inet:strem"], 2),
        (["--device", "../mem"], 2),
    ],
)
def test_explain_answers_by_exit_code(daemon: Daemon, target: str, asked: list[str], code: int) -> None:
    done = run_command("explain", target, *asked, uid=ALICE, address=daemon.address)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
