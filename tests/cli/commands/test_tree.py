"""`nsbroker tree`."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.cli.commands import tree
from nsbroker.model.description import Reference, ReferenceKind
from nsbroker.model.identity import NamespaceType
from tests.cli.conftest import one_line
from tests.cli.made_up import NASTY, ns, run_on_terminal
from tests.world import ALICE, Daemon, Sleeper, run_command

USER, PID, NET = NamespaceType.USER, NamespaceType.PID, NamespaceType.NET


@pytest.fixture
def nested() -> Iterator[Sleeper]:
    """A process in a user namespace of its own, which owns a network."""
    with Sleeper("--user --map-root-user --net") as process:
        yield process


def own(ns_type: str) -> int:
    return Path(f"/proc/self/ns/{ns_type}").stat().st_ino


def test_a_tree_of_made_up_namespaces(capsys: pytest.CaptureFixture[str]) -> None:
    namespaces = [
        ns(30, USER, "b", parent=10, owner=10, owner_uid=3999999999),
        ns(20, USER, "a", parent=10, owner=10, owner_uid=0, containers=["podman:web"]),
        ns(10, USER, "init", owner_uid=0, processes=3),
        ns(25, NET, references=[Reference(ReferenceKind.MOUNT, path="/run/netns/blue")], owner=20),
        ns(15, NET, "init", owner=10, processes=3),
        ns(12, PID, NASTY, owner=10),
        ns(40, USER, owner_uid=0, parent=99),
        ns(50, NET, "stray", owner=98),
    ]
    tree.draw(tree.build_tree(namespaces, USER))
    lines = capsys.readouterr().out.splitlines()
    assert "sh -c \\x1b" in lines.pop(1)
    assert lines == [
        "user:[10]  owner root  3 processes  10010 init",
        "├─ net:[15]  3 processes  10015 init",
        "├─ user:[20]  owner root  1 process  podman:web  10020 a",
        "│  └─ net:[25]  no process  /run/netns/blue",
        "└─ user:[30]  owner 3999999999  1 process  10030 b",
        "user:[40]  owner root  no process",
    ]


def test_pid_namespaces_below_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    namespaces = [ns(number, PID, str(number), parent=number - 1) for number in (4, 3, 2, 1)]
    tree.draw(tree.build_tree([*namespaces, ns(9, NET, owner=1)], PID))
    assert capsys.readouterr().out.splitlines() == [
        "pid:[1]  1 process  10001 1",
        "└─ pid:[2]  1 process  10002 2",
        "   └─ pid:[3]  1 process  10003 3",
        "      └─ pid:[4]  1 process  10004 4",
    ]


def test_the_order_of_the_descriptions_makes_no_difference() -> None:
    namespaces = [ns(number, USER, parent=number // 2) for number in range(1, 30)]
    assert tree.build_tree(namespaces, USER) == tree.build_tree(namespaces[::-1], USER)


def test_our_own_user_namespace_is_the_root_of_a_nested_one(daemon: Daemon, nested: Sleeper) -> None:
    done = run_command("tree", "--type", "user", address=daemon.address)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    roots = [line for line in lines if not line.startswith((" ", "│", "├", "└"))]
    assert f"user:[{own('user')}]" in [line.split()[0] for line in roots]
    [index] = [index for index, line in enumerate(lines) if f"user:[{nested.inode('user')}]" in line]
    assert lines[index][:3] in ("├─ ", "└─ ")
    assert "owner root  1 process" in lines[index]
    assert f"  {nested.pid} " in lines[index]
    assert f"└─ net:[{nested.inode('net')}]" in lines[index + 1]


def test_both_trees_are_shown_and_as_json_nested(daemon: Daemon, nested: Sleeper) -> None:
    lines = run_command("tree", address=daemon.address).stdout.splitlines()
    assert lines[0].startswith(f"user:[{own('user')}]  owner root  ")
    assert lines[lines.index("") + 1].startswith("pid:[")
    trees = json.loads(run_command("tree", "--json", address=daemon.address).stdout)
    assert list(trees) == ["user", "pid"]
    [root] = [root for root in trees["user"] if root["namespace"]["inode"] == own("user")]
    assert own("net") in [one["inode"] for one in root["owns"]]
    [below] = [node for node in root["children"] if node["namespace"]["inode"] == nested.inode("user")]
    assert below["namespace"]["process"]["pid"] == nested.pid
    assert below["namespace"]["ownerUid"] == os.geteuid()
    assert [one["inode"] for one in below["owns"]] == [nested.inode("net")]
    assert list(json.loads(run_command("tree", "--type", "pid", "--json", address=daemon.address).stdout)) == ["pid"]


def test_a_nested_pid_namespace_is_below_ours(daemon: Daemon) -> None:
    with Sleeper("--pid --fork --kill-child --mount-proc") as parent:
        child = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().strip()
        inode = Path(f"/proc/{child}/ns/pid").stat().st_ino
        lines = run_command("tree", "--type", "pid", address=daemon.address).stdout.splitlines()
    assert lines[0].startswith(f"pid:[{own('pid')}]  ")
    [line] = [line for line in lines if f"pid:[{inode}]" in line]
    assert line[1:3] == "─ "
    assert f"  {child} " in line


def test_colour_is_for_terminals_whose_user_wants_it(daemon: Daemon, nested: Sleeper) -> None:
    def drawn(**environment: str) -> str:
        return run_on_terminal("tree", "--type", "user", address=daemon.address, columns=60, **environment)

    assert drawn().startswith(f"\x1b[1muser:[{own('user')}]\x1b[0m")
    for plain in (drawn(NO_COLOR="1"), drawn(TERM="dumb")):
        assert plain.startswith(f"user:[{own('user')}]")
        assert "\x1b" not in plain
        assert max(map(len, plain.splitlines())) <= 60
    assert "\x1b" not in run_command("tree", address=daemon.address).stdout


def test_an_output_without_line_characters_gets_ascii(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = run_command("tree", "--type", "user", address=daemon.address)
    assert done.returncode == 0, done.stderr
    assert f"\n|- mnt:[{own('mnt')}]" in done.stdout


@pytest.mark.root
def test_namespaces_that_are_in_no_tree_are_counted(daemon: Daemon, nested: Sleeper) -> None:
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=[f"pid:{nested.pid}"], namespaces=["net"])
    done = run_command("tree", uid=ALICE, address=daemon.address)
    assert done.returncode == 0
    assert re.fullmatch(r"nsbroker: not shown: 1 of \d+ namespaces, whose owners you may not open; .*\n", done.stderr)
    assert str(nested.inode("net")) not in done.stdout
    assert run_command("tree", "--type", "pid", uid=ALICE, address=daemon.address).stderr == ""


def test_wrong_usage_and_no_broker() -> None:
    done = run_command("tree", "--type", "net")
    assert done.returncode == 2
    # Some versions of Python put the choices in quotes.
    assert "choose from user, pid" in done.stderr.replace("'", "")
    one_line(run_command("tree", address="unix:/run/nowhere/socket"), 1)
