"""The command, as people and programs run it."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nsbroker.cli import main as command
from nsbroker.linux.features import features
from nsbroker.model.identity import NamespaceType
from tests.world import ALICE, Daemon, Sleeper, run_command


def one_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    """What a failed command said: one line on standard error, and nothing else."""
    assert done.returncode == code, done
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("nsbroker: ")
    return lines[0]


@pytest.mark.root
def test_show_lists_eight_namespaces_of_an_own_process(daemon: Daemon) -> None:
    with Sleeper(uid=ALICE) as sleeper:
        done = run_command("show", f"pid:{sleeper.pid}", "--json", uid=ALICE, address=daemon.address)
        assert done.returncode == 0, done.stderr
        assert {row["type"]: row["inode"] for row in json.loads(done.stdout)} == {str(k): sleeper.inode(k) for k in NamespaceType}
        table = run_command("show", f"pid:{sleeper.pid}", uid=ALICE, address=daemon.address).stdout.splitlines()
    assert table[0].split() == ["TYPE", "NAMESPACE", "OWNER", "YOURS"]
    assert len(table) == 9


@pytest.mark.root
def test_show_of_a_foreign_process_is_refused_until_a_rule_allows_it(daemon: Daemon, sleeper: Sleeper) -> None:
    target = f"pid:{sleeper.pid}"
    line = one_line(run_command("show", target, "--json", uid=ALICE, address=daemon.address), 1)
    assert "permission denied" in line
    assert target in line
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["pid:*"], namespaces=["*"])
    done = run_command("show", target, "--json", uid=ALICE, address=daemon.address)
    assert len(json.loads(done.stdout)) == 8


@pytest.mark.root
def test_show_names_what_the_policy_leaves_out(daemon: Daemon, sleeper: Sleeper) -> None:
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["pid:*"], namespaces=["net", "uts"])
    done = run_command("show", f"pid:{sleeper.pid}", "--json", uid=ALICE, address=daemon.address)
    assert [row["type"] for row in json.loads(done.stdout)] == ["net", "uts"]
    assert "does not allow it: cgroup, ipc, mnt" in done.stderr


@pytest.mark.root
def test_open_passes_the_namespace_as_descriptor_3(daemon: Daemon, blue: Path) -> None:
    done = run_command("open", "name:blue", "--", "sh", "-c", "readlink /proc/self/fd/3", address=daemon.address)
    # Before Linux 6.18 a descriptor shows the path by which it was opened.
    assert done.stdout == (f"net:[{blue.stat().st_ino}]\n" if features().namespace_id else f"{blue}\n")


def test_open_passes_several_as_systemd_does_and_nothing_else(daemon: Daemon, sleeper: Sleeper) -> None:
    script = "echo $LISTEN_FDS $LISTEN_FDNAMES $((LISTEN_PID == $$)); exec readlink /proc/self/fd/3 /proc/self/fd/4 /proc/self/fd/5"
    done = run_command(
        "open", f"pid:{sleeper.pid}", "--type", "uts", "--type", "net", "--", "sh", "-c", script, address=daemon.address
    )
    assert done.stdout.splitlines() == ["2 uts:net 1", f"uts:[{sleeper.inode('uts')}]", f"net:[{sleeper.inode('net')}]"]


def test_open_gives_the_exit_code_of_the_command(daemon: Daemon) -> None:
    assert run_command("open", "self", "--", "sh", "-c", "exit 7", address=daemon.address).returncode == 7
    assert "cannot run '/nowhere'" in one_line(run_command("open", "self", "--", "/nowhere", address=daemon.address), 1)


def test_a_second_pair_of_dashes_is_the_commands_own(daemon: Daemon) -> None:
    for verb in ("open", "run"):
        assert run_command(verb, "self", "--", "echo", "a", "--", "b", address=daemon.address).stdout == "a -- b\n"
    assert run_command("whoami", "--", "x", address=daemon.address).returncode == 2


@pytest.mark.root
def test_run_enters_what_is_foreign(daemon: Daemon, sleeper: Sleeper) -> None:
    done = run_command(
        "run", f"pid:{sleeper.pid}", "--", "readlink", "/proc/self/ns/net", "/proc/self/ns/uts", address=daemon.address
    )
    assert done.stdout.split() == [f"net:[{sleeper.inode('net')}]", f"uts:[{sleeper.inode('uts')}]"]


@pytest.mark.root
def test_run_enters_a_pid_namespace_by_a_child_and_gives_its_exit_code(daemon: Daemon) -> None:
    with Sleeper("--pid --fork --kill-child --mount-proc") as parent:
        child = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().strip()
        done = run_command("run", f"pid:{child}", "--", "sh", "-c", "echo $$; exit 7", address=daemon.address)
    assert (done.stdout, done.returncode) == ("2\n", 7)


@pytest.mark.root
def test_run_enters_an_own_user_namespace_without_privilege(daemon: Daemon) -> None:
    drop = f"setpriv --reuid={ALICE} --regid={ALICE} --clear-groups unshare --user --map-root-user --net".split()
    with subprocess.Popen([*drop, "sh", "-c", "echo; exec sleep 600"], stdout=subprocess.PIPE, text=True) as rootless:
        assert rootless.stdout
        rootless.stdout.readline()
        done = run_command("run", f"pid:{rootless.pid}", "--", "readlink", "/proc/self/ns/net", uid=ALICE, address=daemon.address)
        assert done.stdout == os.readlink(f"/proc/{rootless.pid}/ns/net") + "\n", done.stderr
        rootless.kill()


@pytest.mark.root
def test_run_says_what_the_kernel_wants_when_it_refuses(daemon: Daemon) -> None:
    with Sleeper("--net", uid=ALICE) as sleeper:
        line = one_line(run_command("run", f"pid:{sleeper.pid}", "--", "true", uid=ALICE, address=daemon.address), 1)
    assert "CAP_SYS_ADMIN" in line
    assert "nsbroker open" in line


def test_whoami(daemon: Daemon) -> None:
    assert json.loads(run_command("whoami", "--json", address=daemon.address).stdout)["uid"] == os.geteuid()
    assert re.search(rf"^user +{os.geteuid()} ", run_command("whoami", address=daemon.address).stdout, re.MULTILINE)


@pytest.mark.root
def test_explain_names_the_rule_and_answers_by_exit_code(daemon: Daemon, sleeper: Sleeper) -> None:
    done = run_command("explain", f"pid:{sleeper.pid}", "--type", "net", address=daemon.address)
    assert (done.returncode, done.stdout.split()[-3:]) == (0, ["net", "allowed", "root"])
    done = run_command("explain", f"pid:{sleeper.pid}", "--type", "net", uid=ALICE, address=daemon.address)
    assert (done.returncode, done.stdout.split()[-3:]) == (1, ["net", "denied", "-"])


def test_status(daemon: Daemon) -> None:
    assert json.loads(run_command("status", "--json", address=daemon.address).stdout)["rules"] == 2
    assert "+peer_pidfd" in run_command("status", address=daemon.address).stdout


def test_check_shows_the_rules_or_the_one_thing_that_is_wrong(daemon: Daemon) -> None:
    done = run_command("check", "--config", str(daemon.config))
    assert (done.returncode, done.stdout.split()[:7]) == (0, ["RULE", "WHO", "TARGETS", "NAMESPACES", "SOCKETS", "DEVICES", "FILE"])
    assert [
        rule["name"] for rule in json.loads(run_command("check", "--json", "--config", str(daemon.config)).stdout)["allow"]
    ] == [
        "root",
        "own",
    ]
    bad = daemon.config / "nsbroker.d/bad.toml"
    bad.write_text('[[allow]]\nnmae = "x"\n')
    line = one_line(run_command("check", "--config", str(daemon.config)), 1)
    assert f"{bad}: allow[0]: unknown key 'nmae', did you mean 'name'?" in line


def test_check_warns_of_users_that_are_not_there(daemon: Daemon) -> None:
    daemon.allow("ghost", who=["user:nosuchuser"], targets=["own"], namespaces=["net"])
    done = run_command("check", "--config", str(daemon.config))
    assert done.returncode == 0
    assert "nosuchuser" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["nonsense"], ["show"], ["show", "blue"], ["show", "nmae:blue"], ["show", "self", "--type", "network"],
        ["open", "self"],
        ["show", "pid:0"], ["serve", "--nonsense"], ["serve", "--address", "relative"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    done = run_command(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_no_daemon_is_one_line_that_says_what_to_do() -> None:
    line = one_line(run_command("whoami", address="unix:/run/nowhere/socket"), 1)
    assert "is the daemon running?" in line


def test_a_second_daemon_at_the_same_place_is_refused(daemon: Daemon) -> None:
    done = run_command("serve", "--address", daemon.address, "--config", str(daemon.config))
    *warnings, line = done.stderr.splitlines()
    assert (done.returncode, all("warning" in one for one in warnings)) == (1, True)
    assert "already running" in line
    with daemon.connect() as broker:
        broker.who_am_i()


def test_a_daemon_with_a_bad_policy_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "nsbroker.toml"
    path.write_text("[[allow]]\n")
    line = one_line(run_command("serve", "--address", f"unix:/run/never-{os.getpid()}/socket", "--config", str(path)), 1)
    assert str(path) in line


def test_a_reader_that_has_enough_is_no_error(daemon: Daemon) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "nsbroker", "status"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NSBROKER_ADDRESS": daemon.address},
        check=False,
    )
    os.close(write)
    assert done.stderr == ""


def test_version_and_help_teach() -> None:
    assert re.fullmatch(r"nsbroker \d+\.\d+\.\d+\n", run_command("--version").stdout)
    text = run_command("--help").stdout
    for word in ("pid:4711", "name:blue", "examples:", "NSBROKER_ADDRESS", "Exit codes"):
        assert word in text
    for name in command._COMMANDS:
        assert run_command(name, "--help").returncode == 0


def test_control_characters_do_not_reach_the_terminal() -> None:
    line = one_line(run_command("show", "name:a\x1b[31m"), 2)
    assert "\x1b" not in line


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (["create", "a/b"], "a name has letters"),
        (["create", ".."], "a name has letters"),
        (["create", ""], "a name has letters"),
        (["create", "x", "--type", "user"], "run `unshare --user`"),
        (["create", "x", "--type", "pid"], "run `unshare --pid --fork`"),
        (["hold", "self", "a/b"], "a name has letters"),
        (["release", "a/b"], "a name has letters"),
        (["explain", "self", "--device", "../x"], "write its name below /dev"),
        (["explain", "self", "--device", "/dev/null"], "write its name below /dev"),
        (["explain", "self", "--device", "net/" * 8 + "x"], "write its name below /dev"),
        (["explain", "self", "--socket", "inet"], "write FAMILY:TYPE"),
        (["serve", "--idle-timeout", "-1"], "no number of seconds greater than 0"),
        (["serve", "--idle-timeout", "inf"], "no number of seconds greater than 0"),
        (["whoami", "--timeout", "soon"], "no number of seconds greater than 0"),
        (["show", "net:[" + "9" * 5000 + "]"], "is no namespace id"),
        (["open", "self", "--", ""], "COMMAND is empty"),
        (["forward", "self", "a" * 100_000], "is not [ADDRESS:][LOCAL:]PORT"),
        (["forward", "self", "1" * 100_000], "is not [ADDRESS:][LOCAL:]PORT"),
        (["connect", "self", "127.0.0.1", "1" * 100_000], "is no port"),
        (["show", "pid:" + "1" * 100_000], "is no process or thread number"),
        (["show", "docker:" + "a/" * 50_000], "a container's name or id has"),
        (["show", "unit:" + "a" * 100_000], "a unit is written with its suffix"),
        (["show", "path:" + "/a" * 50_000], "a path is absolute"),
        (["show", "x" * 100_000 + ":1"], "there is no kind of target"),
        (["ls", "--type", "x" * 100_000], "is no namespace type"),
        (["explain", "self", "--socket", ":" * 100_000], "write FAMILY:TYPE"),
    ],
    ids=lambda one: " ".join(one)[:40] if isinstance(one, list) else "",
)
def test_wrong_usage_says_the_rule_before_anybody_is_asked(arguments: list[str], rule: str) -> None:
    begun = time.monotonic()
    line = one_line(run_command(*arguments, address="unix:/run/nowhere/socket"), 2)
    assert rule in line
    assert "_seconds" not in line
    assert len(line) < 1000
    # However long it is, it takes no time to see that it is wrong.
    assert time.monotonic() - begun < 3
