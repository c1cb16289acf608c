"""`nsbroker map`: what it draws, and that the file is written as a whole or not at all."""

import os
import re
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.cli.drawing.test_page import Elements
from tests.cli.drawing.test_svg import titles
from tests.world import ALICE, Daemon, Sleeper, run_command


@pytest.mark.parametrize("name", ["map", "map.png", "map.svg.txt", ".svg"])
def test_another_ending_is_wrong_usage(tmp_path: Path, name: str) -> None:
    done = run_command("map", str(tmp_path / name))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert run_command("map", "x.svg", "--type", "network").returncode == 2


def test_the_command_draws_all_namespaces(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "map.svg"
    with Sleeper() as sleeper:
        done = run_command("map", str(file), address=daemon.address)
        assert done.returncode == 0, done.stderr
        root = ElementTree.fromstring(file.read_text())
        printed = re.fullmatch(rf"{re.escape(str(file))}: (\d+) namespaces, (\d+) columns\n", done.stdout)
        assert printed
        assert [len(titles(root, look)) for look in ("bar", "column")] == [int(printed[1]), int(printed[2])]
        bars = titles(root, "bar")
        for kind in ("net", "uts", "ipc"):
            (title,) = (title for title in bars if title.startswith(f"{kind}:[{sleeper.inode(kind)}]"))
            assert f"leader: {sleeper.pid} " in title
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".nsbroker")]


def test_types_choose_rows(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "map.html"
    done = run_command("map", str(file), "--type", "uts", "--type", "ipc", address=daemon.address)
    assert done.returncode == 0, done.stderr
    rows = [
        attributes["data-find"] or ""
        for _, attributes in Elements(file.read_text()).tags
        if (attributes.get("class") or "").startswith("bar ")
    ]
    assert {row.partition(":")[0] for row in rows} == {"uts", "ipc"}


@pytest.mark.root
def test_a_named_network_is_a_column(daemon: Daemon, blue: Path, tmp_path: Path) -> None:
    file = tmp_path / "map.svg"
    assert run_command("map", str(file), address=daemon.address).returncode == 0
    root = ElementTree.fromstring(file.read_text())
    assert [title for title in titles(root, "column") if title.split("\n")[0] == f"bound file {blue}"]
    (title,) = (title for title in titles(root, "bar") if title.startswith(f"net:[{blue.stat().st_ino}]"))
    assert f"used by: {blue}" in title


@pytest.mark.root
def test_what_the_broker_holds_is_a_column(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "map.svg"
    assert run_command("create", "lab", address=daemon.address).returncode == 0
    assert run_command("map", str(file), address=daemon.address).returncode == 0
    columns = titles(ElementTree.fromstring(file.read_text()), "column")
    assert [title for title in columns if title.split("\n")[0] == "held as name:lab"]


@pytest.mark.root
def test_a_user_who_may_see_less_draws_less(daemon: Daemon, sleeper: Sleeper) -> None:
    with tempfile.TemporaryDirectory() as folder, Sleeper("--uts", uid=ALICE) as alices:
        os.chown(folder, ALICE, ALICE)
        own = Path(folder, "of-alice.svg")
        done = run_command("map", str(own), uid=ALICE, address=daemon.address)
        assert done.returncode == 0, done.stderr
        printed = " ".join(titles(ElementTree.fromstring(own.read_text()), "bar"))
        assert f"uts:[{alices.inode('uts')}]" in printed
        assert f"uts:[{sleeper.inode('uts')}]" not in printed
        assert own.stat().st_uid == ALICE


def test_a_symbolic_link_is_replaced_and_not_followed(daemon: Daemon, tmp_path: Path) -> None:
    precious, link = tmp_path / "precious", tmp_path / "map.svg"
    precious.write_text("precious")
    link.symlink_to(precious)
    assert run_command("map", str(link), address=daemon.address).returncode == 0
    assert precious.read_text() == "precious"
    assert not link.is_symlink()
    assert link.read_text().startswith("<?xml")


def test_the_file_has_the_mode_that_the_umask_leaves(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "map.svg"
    assert run_command("map", str(file), address=daemon.address, umask=0o027).returncode == 0
    assert file.stat().st_mode & 0o777 == 0o640


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(daemon: Daemon, tmp_path: Path) -> None:
    folder = tmp_path / "folder.svg"
    folder.mkdir()
    before = sorted(os.listdir(tmp_path))
    for path in (folder, tmp_path / "nowhere/map.svg", tmp_path / f"{'x' * 300}.svg"):
        done = run_command("map", str(path), address=daemon.address)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"nsbroker: cannot write {path}: ")
        assert done.stderr.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == before


def test_no_daemon_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "map.svg"
    file.write_text("old")
    done = run_command("map", str(file), address="unix:/run/nowhere/socket")
    assert done.returncode == 1
    assert file.read_text() == "old"
    assert done.stderr.count("\n") == 1
