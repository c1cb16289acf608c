"""Reading a small file below a root that another user controls."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nsbroker.linux import file_system, foreign_file


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "etc").mkdir()
    fd = os.open(tmp_path, os.O_PATH)
    yield fd
    os.close(fd)


def test_a_file_is_read_up_to_its_greatest_size(tmp_path: Path, root: int) -> None:
    path = tmp_path / "etc/hosts"
    for size in (0, 5, foreign_file.SIZE_MAX):
        path.write_bytes(bytes(size))
        assert foreign_file.read(root, "etc/hosts") == bytes(size)
    for size in (foreign_file.SIZE_MAX + 1, 2**30):
        os.truncate(path, size)
        with pytest.raises(OSError, match="more than 65536 bytes"):
            foreign_file.read(root, "etc/hosts")


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "link": (lambda path: path.symlink_to("/etc/passwd"), "symbolic links"),
    "link in the same folder": (lambda path: path.symlink_to("other"), "symbolic links"),
    "FIFO": (os.mkfifo, "no regular file"),
    "folder": (Path.mkdir, "no regular file"),
    "nothing": (lambda path: None, "No such file"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_another_kind_of_file_is_not_opened(tmp_path: Path, root: int, kind: str) -> None:
    prepare, message = WRONG[kind]
    prepare(tmp_path / "etc/hosts")
    (tmp_path / "etc/other").touch()
    with pytest.raises(OSError, match=message):
        foreign_file.read(root, "etc/hosts")


@pytest.mark.parametrize("path", ["../etc/hosts", "/etc/hosts"])
def test_a_path_that_leads_out_of_the_root_is_refused(root: int, path: str) -> None:
    with pytest.raises(OSError, match="cross-device"):
        foreign_file.read(root, path)


def test_a_file_of_proc_is_another_one_for_each_reader_and_is_refused() -> None:
    # A file of procfs can be bound to any path.  Here, the path leads to it directly.
    proc = os.open(f"/proc/{os.getpid()}", os.O_PATH)
    try:
        with pytest.raises(OSError, match="another one for each reader"):
            foreign_file.read(proc, "maps")
        assert file_system.magic(proc) == file_system.PROC
    finally:
        os.close(proc)
