"""`nsbroker explain`."""

import json

import pytest

from tests.world import ALICE, Daemon, Sleeper, run_command

pytestmark = pytest.mark.root


def test_explain_names_the_rule_and_answers_by_exit_code(daemon: Daemon, sleeper: Sleeper) -> None:
    done = run_command("explain", f"pid:{sleeper.pid}", "--type", "net", address=daemon.address)
    assert (done.returncode, done.stdout.split()[-3:]) == (0, ["net", "allowed", "root"])
    done = run_command("explain", f"pid:{sleeper.pid}", "--type", "net", uid=ALICE, address=daemon.address)
    assert (done.returncode, done.stdout.split()[-3:]) == (1, ["net", "denied", "-"])


def test_explain_names_the_rule_for_each_socket_and_device(daemon: Daemon, target: str) -> None:
    asked = ["--type", "net", "--socket", "inet:stream", "--device", "null"]
    done = run_command("explain", target, *asked, uid=ALICE, address=daemon.address)
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["WHAT", "VERDICT", "RULE"],
        ["net", "allowed", "alice"],
        ["inet:stream", "allowed", "alice"],
        ["null", "allowed", "alice"],
    ]
    reply = json.loads(run_command("explain", target, *asked, "--json", uid=ALICE, address=daemon.address).stdout)
    assert reply["sockets"] == [{"name": "inet:stream", "allowed": True, "rule": "alice"}]
    assert reply["devices"] == [{"name": "null", "allowed": True, "rule": "alice"}]


def test_explain_names_the_rule_for_interfaces(daemon: Daemon, target: str) -> None:
    done = run_command("explain", target, "--interface", "veth", "--interface", "tap", address=daemon.address)
    assert [line.split() for line in done.stdout.splitlines()][1:] == [
        ["interface", "veth", "allowed", "root"],
        ["interface", "tap", "allowed", "root"],
    ]
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (["--socket", "inet:stream"], 0),
        (["--socket", "inet:stream:80"], 1),
        (["--device", "null"], 0),
        (["--device", "fuse"], 1),
        (["--file", "hosts"], 0),
        (["--file", "hosts", "--file", "net/tcp"], 1),
        (["--file", "passwd"], 2),
        (["--socket", "inet:strem"], 2),
        (["--device", "../mem"], 2),
        (["--interface", "tap"], 1),
        (["--interface", "veth", "--interface", "tap"], 1),
        (["--interface", "bridge"], 2),
    ],
)
def test_explain_answers_by_exit_code(daemon: Daemon, target: str, asked: list[str], code: int) -> None:
    done = run_command("explain", target, *asked, uid=ALICE, address=daemon.address)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
