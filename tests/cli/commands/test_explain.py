"""`nsbroker explain`."""

import json
import re
import tomllib

import pytest

from tests.cli.conftest import one_line
from tests.world import ALICE, BOB, Daemon, Sleeper, run_command

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


def test_for_another_user_it_ends_with_the_rule_that_is_missing(daemon: Daemon, target: str) -> None:
    asked = [
        "explain",
        target,
        "--as",
        f"user:{BOB},group:77",
        "--type",
        "net",
        "--device",
        "null",
        "--file",
        "hosts",
        "--mark",
        "7",
    ]
    done = run_command(*asked, address=daemon.address)
    assert (done.returncode, done.stderr) == (1, "")
    verdicts, rules, rest = done.stdout.split("\n\n", 2)
    assert [line.split()[-2] for line in verdicts.splitlines()[1:]] == ["denied"] * 4
    table = {line.split()[0]: line for line in rules.splitlines()}
    assert table["RULE"].split() == ["RULE", "FOR-USER", "FOR-TARGET", "ALLOWS", "LACKS", "ENDED", "WRITTEN-IN"]
    assert re.match(r"alice +no +yes +net, device null, file hosts +mark 0x7 +no +/", table["alice"])
    assert re.match(r"own +yes +no +net, file hosts +mark 0x7, device null +no +/", table["own"])
    assert "This rule would allow what is denied." in rest
    (daemon.config / "nsbroker.d/missing.toml").write_text(rest.partition("\n\n")[2])
    daemon.reload()
    assert run_command(*asked, address=daemon.address).returncode == 0
    reply = json.loads(run_command(*asked, "--json", address=daemon.address).stdout)
    assert (reply["allowed"], "missingRule" in reply, reply["rules"][0]["rule"]) == (True, False, str(BOB))


def test_the_missing_rule_in_json_is_for_the_unit_that_was_given(daemon: Daemon) -> None:
    words = f"unit:web.service,user:{ALICE}"
    done = run_command("explain", "name:green", "--as", words, "--device", "mydev", "--json", address=daemon.address)
    assert "was not found" in done.stderr
    rule = tomllib.loads(json.loads(done.stdout)["missingRule"])["allow"][0]
    assert rule == {"name": "web-service", "who": ["unit:web.service"], "targets": ["name:green"], "devices": ["mydev=MAJOR:MINOR"]}


@pytest.mark.parametrize("words", ["bob", "group:77", "user:", "user:1,user:2", "user:1,everyone", "user:1,docker:a,podman:b", ""])
def test_somebody_whom_nobody_can_be_is_wrong_usage(daemon: Daemon, words: str) -> None:
    done = run_command("explain", "self", "--as", words, address=daemon.address)
    assert done.returncode == 2
    assert "write user:NAME" in done.stderr


def test_an_unknown_user_and_a_question_of_another_user_than_root_are_refused_in_one_line(daemon: Daemon) -> None:
    assert "no such user" in one_line(run_command("explain", "self", "--as", "user:nosuchuser", address=daemon.address), 1)
    done = run_command("explain", "self", "--as", f"user:{ALICE}", uid=ALICE, address=daemon.address)
    assert "only root can ask for another user" in one_line(done, 1)
