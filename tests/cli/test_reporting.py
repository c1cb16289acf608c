"""What --verbose says: the broker, the calls, how long they took, and the rules; and what --quiet leaves out."""

import re
import socket
from pathlib import Path

import pytest

from nsbroker.cli import main
from tests.cli.conftest import one_line
from tests.client.every_client import impostor, read_call
from tests.world import ALICE, Daemon, Sleeper, run_command


def test_a_verbose_command_says_whom_it_asks_and_which_rule_allows_it(daemon: Daemon) -> None:
    usual = run_command("open", "self", "--type", "net", "--", "true", address=daemon.address)
    assert (usual.returncode, usual.stderr) == (0, "")
    for words in (["-v", "open", "self"], ["--verbose", "open", "self"], ["open", "self", "-v"], ["open", "--verbose", "self"]):
        done = run_command(*words, "--", "true", address=daemon.address)
        assert (done.returncode, done.stdout) == (0, "")
        lines = done.stderr.splitlines()
        broker = rf"nsbroker: broker: {re.escape(daemon.address)} \(\$NSBROKER_ADDRESS\); a step may take \d+ s"
        assert re.fullmatch(broker, lines[0])
        assert re.fullmatch(rf"nsbroker: connected: process {daemon.pid} of uid \d+ listens there", lines[1])
        assert lines[2] == "nsbroker: asking: open net of self"
        assert re.fullmatch(r"nsbroker: answered after \d+\.\d ms", lines[3])
        assert lines[4:] == ["nsbroker: net: allowed by the rule root"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["devices", "self"], "asking: list the devices of self"),
        (["cat", "self", "net/dev"], "net/dev: allowed by the rule root"),
        (["ls", "--type", "net"], "asking: list namespaces"),
        (["show", "self", "--timeout", "7"], "a step may take 7 s"),
        (["whoami"], "asking: ask who I am"),
        (["doctor"], "broker: unix:"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)
def test_every_command_that_asks_the_broker_can_be_verbose(daemon: Daemon, words: list[str], says: str) -> None:
    done = run_command(*words, "--verbose", address=daemon.address)
    assert done.returncode == 0, done
    assert says in done.stderr
    assert all(line.startswith("nsbroker: ") for line in done.stderr.splitlines())


def test_a_verbose_command_that_is_refused_says_so_last(tmp_path: Path) -> None:
    def refuse(sock: socket.socket) -> None:
        while read_call(sock):
            sock.sendall(b'{"error":"org.varlink.service.PermissionDenied"}\0')

    with impostor(refuse) as address:
        done = run_command("-v", "open", "pid:1", "--", "true", address=address)
    *details, last = done.stderr.splitlines()
    assert done.returncode == 1
    assert [detail.partition(" after ")[0] for detail in details[2:]] == ["nsbroker: asking: open net of pid:1", "nsbroker: failed"]
    assert "permission denied" in last


@pytest.mark.root
def test_hints_are_left_out_by_quiet_and_errors_are_not(daemon: Daemon, sleeper: Sleeper) -> None:
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["pid:*"], namespaces=["net"])
    words = ["show", f"pid:{sleeper.pid}"]
    usual = run_command(*words, uid=ALICE, address=daemon.address)
    assert "not shown, because the policy does not allow it: cgroup" in usual.stderr
    for quietly in (["--quiet", *words], [*words, "--quiet"]):
        quiet = run_command(*quietly, uid=ALICE, address=daemon.address)
        assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, usual.stdout, "")
    assert "permission denied" in one_line(run_command("--quiet", "show", "name:x", uid=ALICE, address=daemon.address), 1)


def test_verbose_and_quiet_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--quiet", "whoami", "--verbose"]) == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_a_leading_option_without_a_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["-v"]) == 2
    assert "usage: nsbroker" in capsys.readouterr().out
