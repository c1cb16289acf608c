"""Walks below a /dev.  `tests/daemon/methods/test_devices.py` has the devices of containers."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.linux import device


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    """A directory fd of a folder with a `dev`."""
    (tmp_path / "dev").mkdir()
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    yield fd
    os.close(fd)


def test_a_walk_has_one_folder_open_at_a_time_however_many_there_are(root: int, tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"dev/{number}/a/b/c").mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    names, most = [], 0
    for name, _ in device.walk(root):
        names.append(name)
        most = max(most, len(os.listdir("/proc/self/fd")) - before)
    assert sorted(names) == sorted(f"{number}{below}" for number in range(100) for below in ("", "/a", "/a/b", "/a/b/c"))
    # The folder, and the copy of it that scandir(3) reads from.
    assert most == 2


def test_a_folder_that_becomes_a_link_before_it_is_its_turn_is_left_out(root: int, tmp_path: Path) -> None:
    (tmp_path / "elsewhere/secret").mkdir(parents=True)
    (tmp_path / "dev/net").mkdir()
    walk = device.walk(root)
    assert next(walk)[0] == "net"
    (tmp_path / "dev/net").rmdir()
    (tmp_path / "dev/net").symlink_to("../elsewhere")
    assert list(walk) == []


def test_without_a_dev_there_is_an_error(root: int, tmp_path: Path) -> None:
    (tmp_path / "dev").rmdir()
    with pytest.raises(FileNotFoundError):
        next(device.walk(root))
    (tmp_path / "dev").symlink_to(".")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        next(device.walk(root))
