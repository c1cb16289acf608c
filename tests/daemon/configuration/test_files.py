"""Reading the files: only what nobody but root, or the user who runs the broker, could have changed."""

import os
from pathlib import Path

import pytest

from nsbroker.daemon import configuration
from nsbroker.daemon.configuration import files
from nsbroker.errors import ConfigurationError
from tests.daemon.configuration.test_loading import RULE
from tests.world import ALICE, BOB


@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602])
def test_a_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "nsbroker.toml"
    path.write_text("")
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"mode {mode:o}.*chmod go-w {path}"):
        configuration.load(path)


@pytest.mark.root
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nsbroker.toml"
    path.write_text("")
    os.chown(path, ALICE, ALICE)
    with pytest.raises(ConfigurationError, match=f"uid {ALICE}.*chown root"):
        configuration.load(path)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_a_folder_of_rules_that_others_may_write_is_refused_whatever_is_in_it(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "nsbroker.d"
    folder.mkdir()
    (tmp_path / "nsbroker.toml").write_text("")
    for name in ("", "a.toml"):
        if name:
            (folder / name).write_text(RULE.format("a"))
        folder.chmod(mode)
        with pytest.raises(ConfigurationError, match=f"{folder} can be written by others.*chmod go-w {folder}"):
            configuration.load(tmp_path)


@pytest.mark.root
@pytest.mark.parametrize("target", ["rule", "/dev/null"])
def test_a_link_of_another_user_to_a_file_of_root_becomes_no_policy(tmp_path: Path, target: str) -> None:
    (tmp_path / "rule").write_text(RULE.format("a"))
    folder = tmp_path / "nsbroker.d"
    folder.mkdir()
    link = folder / "b.toml"
    link.symlink_to(tmp_path / target)
    os.chown(link, BOB, BOB, follow_symlinks=False)
    with pytest.raises(ConfigurationError, match=f"{link} belongs to uid {BOB}.*chown -h root {link}"):
        configuration.load(tmp_path)


def test_a_folder_that_is_a_link_is_read(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.toml").write_text(RULE.format("a"))
    (tmp_path / "nsbroker.d").symlink_to("real")
    assert [rule.text.name for rule in configuration.load(tmp_path).rules] == ["a"]


def test_a_folder_a_fifo_and_a_file_in_the_place_of_the_folder_are_refused(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.toml"
    os.mkfifo(fifo)
    with pytest.raises(ConfigurationError, match="not a regular file"):
        configuration.load(fifo)
    (tmp_path / "nsbroker.toml").mkdir()
    with pytest.raises(ConfigurationError, match="not a regular file"):
        configuration.load(tmp_path)
    (tmp_path / "nsbroker.toml").rmdir()
    (tmp_path / "nsbroker.d").write_text("")
    with pytest.raises(ConfigurationError, match=r"nsbroker\.d: cannot list it: Not a directory"):
        configuration.load(tmp_path)


def test_the_shipped_rules_are_read_whoever_owns_the_checkout() -> None:
    assert files.read(files.SHIPPED) == files.SHIPPED.read_text()
