"""Paths that others than root could change are refused, wherever on the way the weak point is."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from nsbroker.daemon.configuration import trusted_path
from nsbroker.errors import ConfigurationError
from tests.world import ALICE, BOB

pytestmark = pytest.mark.root


def open_and_close(path: Path) -> os.stat_result:
    fd = trusted_path.open_trusted(path)
    try:
        assert not os.get_inheritable(fd)
        return os.fstat(fd)
    finally:
        os.close(fd)


def refusal(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        open_and_close(path)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file two folders down."""
    path = tmp_path / "a/b/file"
    path.parent.mkdir(parents=True)
    path.write_text("x")
    return path


def test_a_file_of_root_in_folders_of_root_is_opened(file: Path) -> None:
    assert open_and_close(file).st_ino == file.stat().st_ino
    assert open_and_close(file.parent).st_ino == file.parent.stat().st_ino
    assert open_and_close(Path("/")).st_ino == Path("/").stat().st_ino


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_each_folder_on_the_way_is_checked(file: Path, steps: int) -> None:
    weak = [file, *file.parents][steps]
    for mode in (0o777, 0o770, 0o707):
        weak.chmod(mode)
        assert re.match(f"{weak} can be written by others than its owner .mode {mode:o}.*run `chmod go-w {weak}`", refusal(file))
    weak.chmod(0o755)
    os.chown(weak, ALICE, ALICE)
    assert re.match(f"{weak} belongs to uid {ALICE}, not to uid 0, .*run `chown root {weak}`", refusal(file))


def test_what_the_group_of_a_file_may_write_is_refused_also_for_the_group_of_root(file: Path) -> None:
    file.chmod(0o664)
    assert "chmod go-w" in refusal(file)


def test_a_link_is_followed_and_checked_as_a_folder_is(file: Path, tmp_path: Path) -> None:
    links = {"absolute": file, "relative": Path("a/../a/b/file"), "folder": Path("a/b")}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    for path in (tmp_path / "absolute", tmp_path / "relative", tmp_path / "folder/file", tmp_path / "folder/../b/file"):
        assert open_and_close(path).st_ino == file.stat().st_ino
    os.chown(tmp_path / "relative", BOB, BOB, follow_symlinks=False)
    assert re.match(f"{tmp_path}/relative belongs to uid {BOB}.*chown -h root {tmp_path}/relative", refusal(tmp_path / "relative"))
    # What a link leads to is checked, too, with the folders there.
    file.parent.chmod(0o777)
    assert f"{file.parent} can be written" in refusal(tmp_path / "absolute")


def test_a_link_in_a_circle_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        open_and_close(tmp_path / "link")


def test_in_a_sticky_folder_only_what_belongs_to_root_is_trusted(file: Path) -> None:
    file.parent.parent.chmod(0o1777)
    assert open_and_close(file).st_ino == file.stat().st_ino
    os.chown(file.parent, BOB, BOB)
    assert f"{file.parent} belongs to uid {BOB}" in refusal(file)
    os.chown(file.parent, 0, 0)
    theirs = file.parent.parent / "link"
    theirs.symlink_to(file)
    os.chown(theirs, BOB, BOB, follow_symlinks=False)
    assert f"{theirs} belongs to uid {BOB}" in refusal(theirs)


def test_a_folder_that_is_mounted_read_only_may_have_any_mode_but_what_is_in_it_must_be_roots(tmp_path: Path) -> None:
    """The folder of a ConfigMap of Kubernetes has the mode 777, is mounted read-only, and has links to the files."""
    volume = tmp_path / "volume"
    volume.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=777", "tmpfs", volume], check=True)
    try:
        (volume / "..1").mkdir()
        (volume / "..1/policy.toml").write_text("x")
        (volume / "..data").symlink_to("..1")
        for name in ("policy.toml", "theirs.toml"):
            (volume / name).symlink_to("..data/policy.toml")
        os.chown(volume / "theirs.toml", BOB, BOB, follow_symlinks=False)
        assert f"{volume} can be written by others" in refusal(volume / "policy.toml")
        subprocess.run(["mount", "-o", "remount,ro", volume], check=True)
        assert open_and_close(volume / "policy.toml").st_ino == (volume / "..1/policy.toml").stat().st_ino
        assert f"{volume}/theirs.toml belongs to uid {BOB}" in refusal(volume / "theirs.toml")
        fd = trusted_path.open_trusted(volume)
        try:
            trusted_path.check_unshared(fd, volume)
        finally:
            os.close(fd)
    finally:
        subprocess.run(["umount", volume], check=True)


def test_a_folder_that_is_listed_must_not_even_be_sticky(file: Path) -> None:
    file.parent.chmod(0o1777)
    fd = trusted_path.open_trusted(file.parent)
    try:
        with pytest.raises(ConfigurationError, match=f"{file.parent} can be written by others"):
            trusted_path.check_unshared(fd, file.parent)
    finally:
        os.close(fd)


def test_the_device_of_dev_null_is_writable_for_everybody_and_opened(tmp_path: Path) -> None:
    (tmp_path / "masked").symlink_to("/dev/null")
    assert open_and_close(tmp_path / "masked").st_rdev == os.makedev(1, 3)


def test_a_path_through_a_file_and_a_missing_one_are_errors_of_the_system(file: Path) -> None:
    with pytest.raises(NotADirectoryError):
        open_and_close(file / "below")
    with pytest.raises(FileNotFoundError):
        open_and_close(file.with_name("missing"))


def test_a_relative_path_begins_where_the_process_is(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert open_and_close(Path("../b/file")).st_ino == file.stat().st_ino
