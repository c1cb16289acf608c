"""`nsbroker ls`."""

import json
import os
import sys
from pathlib import Path

import pytest

from nsbroker.cli.commands import ls
from nsbroker.model.description import NamespaceDescription, Reference, ReferenceKind
from nsbroker.model.identity import NamespaceType
from tests.cli.conftest import one_line
from tests.cli.made_up import NASTY, ns, run_on_terminal
from tests.world import ALICE, Daemon, Sleeper, run_command

HEAD = ["NAMESPACE", "TYPE", "PROCESSES", "PID", "USER", "USED", "BY", "COMMAND"]


def listed(daemon: Daemon, *arguments: str, uid: int = 0) -> list[dict[str, object]]:
    done = run_command("ls", *arguments, "--json", uid=uid, address=daemon.address)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def lines(daemon: Daemon, *arguments: str, uid: int = 0) -> list[str]:
    done = run_command("ls", *arguments, uid=uid, address=daemon.address)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_table_of_anything_has_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    blue = Reference(ReferenceKind.MOUNT, path="/run/netns/blue")
    ls.print_namespaces(
        [
            ns(1, command=NASTY, containers=["docker:we\x1bb"]),
            ns(2, NamespaceType.CGROUP, command="", uid=3999999999),
            ns(3, references=[blue]),
            ns(4, command="x" * 5000),
        ]
    )
    table = capsys.readouterr().out.split("\n")
    assert table[0].split() == HEAD
    assert table[1].split()[:6] == ["1", "net", "1", "10001", "root", "docker:we\\x1bb"]
    assert "sh -c \\x1b]0;owned" in table[1]
    assert table[2].split() == ["2", "cgroup", "1", "10002", "3999999999", "-", "-"]
    assert table[3].split() == ["3", "net", "0", "-", "-", "/run/netns/blue", "-"]
    assert table[4].endswith("x" * 5000)
    assert table[5:] == [""]
    assert all(line.isprintable() for line in table)


def test_a_table_of_nothing_is_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    ls.print_namespaces([])
    assert capsys.readouterr().out.split() == HEAD


@pytest.mark.parametrize(
    ("key", "order"),
    [
        ("inode", [1, 2, 3, 4]),
        ("type", [2, 3, 4, 1]),
        ("processes", [3, 1, 4, 2]),
        ("pid", [1, 3, 4, 2]),
        ("user", [4, 1, 3, 2]),
        ("command", [4, 1, 3, 2]),
    ],
)
def test_sorted_by_each_key_and_then_by_inode(key: str, order: list[int]) -> None:
    namespaces: list[NamespaceDescription] = [
        ns(4, NamespaceType.NET, "a", uid=3999999999),
        ns(3, NamespaceType.NET, "c", processes=2),
        ns(2, NamespaceType.MNT),
        ns(1, NamespaceType.UTS, "b"),
    ]
    assert [one.inode for one in ls.sort_namespaces(namespaces, key)] == order


def test_a_process_appears_with_its_namespaces_pid_and_command(daemon: Daemon, sleeper: Sleeper) -> None:
    [line] = [line for line in lines(daemon) if line.startswith(f"{sleeper.inode('net')} ")]
    assert line.split()[:6] == [str(sleeper.inode("net")), "net", "1", str(sleeper.pid), "root", "-"]
    assert "time.sleep(600)" in line
    assert sys.executable in line


def test_the_list_is_sorted_and_as_json_the_same(daemon: Daemon, sleeper: Sleeper) -> None:
    inodes = [int(line.split()[0]) for line in lines(daemon)[1:]]
    assert inodes == sorted(inodes)
    rows = listed(daemon)
    assert {sleeper.inode(kind) for kind in NamespaceType} <= {row["inode"] for row in rows} & set(inodes)
    [row] = [row for row in rows if row["inode"] == sleeper.inode("uts")]
    process = row["process"]
    assert isinstance(process, dict)
    assert (row["type"], row["processes"], process["pid"], process["uid"]) == ("uts", 1, sleeper.pid, 0)


def test_as_json_sorted_by_a_key(daemon: Daemon, sleeper: Sleeper) -> None:
    counts = [int(str(row["processes"])) for row in listed(daemon, "--sort", "processes")]
    assert counts == sorted(counts, reverse=True)


def test_only_the_types_that_were_asked_for(daemon: Daemon, sleeper: Sleeper) -> None:
    rows = listed(daemon, "--type", "net", "--type", "uts")
    assert {row["type"] for row in rows} == {"net", "uts"}
    assert {sleeper.inode("net"), sleeper.inode("uts")} <= {row["inode"] for row in rows}


def test_of_a_target_alone(daemon: Daemon, sleeper: Sleeper) -> None:
    rows = listed(daemon, f"pid:{sleeper.pid}")
    assert {row["type"]: row["inode"] for row in rows} == {str(kind): sleeper.inode(kind) for kind in NamespaceType}
    assert len(lines(daemon, f"pid:{sleeper.pid}", "--type", "net")) == 2


@pytest.mark.root
def test_a_named_network_without_process_appears_with_its_path(daemon: Daemon, blue: Path, sleeper: Sleeper) -> None:
    inode = str(blue.stat().st_ino)
    table = [line.split() for line in lines(daemon, "--type", "net", "--without-process")]
    assert [inode, "net", "0", "-", "-", str(blue), "-"] in table
    assert str(sleeper.inode("net")) not in [line[0] for line in table]


@pytest.mark.root
def test_a_network_that_only_a_descriptor_keeps_names_it(daemon: Daemon) -> None:
    with Sleeper("--net") as sleeper:
        fd = os.open(f"/proc/{sleeper.pid}/ns/net", os.O_RDONLY)
    try:
        inode = str(os.fstat(fd).st_ino)
        [line] = [line for line in lines(daemon, "--type", "net", "--without-process") if line.startswith(inode)]
    finally:
        os.close(fd)
    assert line.split() == [inode, "net", "0", "-", "-", "fd", str(fd), "of", str(os.getpid()), "-"]


@pytest.mark.root
def test_what_the_broker_holds_has_its_name(daemon: Daemon) -> None:
    run_command("create", "lab", address=daemon.address)
    [line] = [line for line in lines(daemon, "--type", "net", "--without-process") if "name:lab" in line]
    assert " name:lab, fd " in line


@pytest.mark.root
def test_a_user_sees_what_a_rule_allows(daemon: Daemon, sleeper: Sleeper) -> None:
    with Sleeper("--net", uid=ALICE) as own:
        inode = own.inode("net")
        [line] = [line for line in lines(daemon, "--type", "net", uid=ALICE) if line.startswith(f"{inode} ")]
        inodes = {row["inode"] for row in listed(daemon, uid=ALICE)}
    assert line.split()[4] == str(ALICE)
    assert inode in inodes
    assert sleeper.inode("net") not in inodes


def test_on_a_terminal_a_line_is_as_long_as_that_is_wide(daemon: Daemon, sleeper: Sleeper) -> None:
    def row(columns: int) -> str:
        text = run_on_terminal("ls", f"pid:{sleeper.pid}", "--type", "net", address=daemon.address, columns=columns)
        return text.splitlines()[1]

    assert len(row(80)) == 80
    assert row(80).endswith("…")
    assert row(1000).endswith("time.sleep(600)")
    assert str(sleeper.inode("net")) in row(20)


def test_a_command_of_an_odd_name_takes_one_line(daemon: Daemon, tmp_path: Path) -> None:
    program = os.fsencode(tmp_path) + b"/a\n\x1b[31m\xffb c"
    os.symlink("/bin/sleep", program)
    child = os.posix_spawn(program, [program, b"600"], {})
    try:
        done = run_command("ls", f"pid:{child}", "--type", "net", address=daemon.address)
        rows = listed(daemon, f"pid:{child}", "--type", "net")
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert "\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) == 2
    assert len(rows) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--sort", "size"], "inode, type, processes, pid, user, command"),
        (["--type", "network"], "use one of cgroup, ipc, mnt, net, pid, time, user, uts"),
        (["blue"], "blue"),
    ],
)
def test_wrong_usage_names_what_is_right(arguments: list[str], text: str) -> None:
    done = run_command("ls", *arguments)
    assert done.returncode == 2
    # Some versions of Python put the choices in quotes.
    assert text in done.stderr.replace("'", "")
    assert "Traceback" not in done.stderr


def test_a_target_that_is_not_there_is_one_line(daemon: Daemon) -> None:
    one_line(run_command("ls", "name:nosuch", address=daemon.address), 1)


def test_no_broker_is_one_line() -> None:
    assert "is the daemon running?" in one_line(run_command("ls", address="unix:/run/nowhere/socket"), 1)
