import os
from pathlib import Path

import pytest

from nsbroker.daemon import configuration
from nsbroker.errors import ConfigurationError
from tests.world import ALICE

RULE = '[[allow]]\nname = "{}"\nwho = "everyone"\ntargets = ["own"]\nnamespaces = ["net"]\n'


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """Three configuration folders, in the order of /usr/lib, /run and /etc."""
    found = (tmp_path / "usr", tmp_path / "run", tmp_path / "etc")
    for folder in found:
        (folder / "nsbroker.d").mkdir(parents=True)
    monkeypatch.setattr(configuration, "DIRECTORIES", found)
    return found


def names() -> list[str]:
    return [rule.text.name for rule in configuration.load().rules]


def test_the_later_folder_wins_by_file_name_and_drop_ins_come_in_their_order(folders: tuple[Path, Path, Path]) -> None:
    usr, run, etc = folders
    (usr / "nsbroker.toml").write_text(RULE.format("shipped"))
    (usr / "nsbroker.d/20-b.toml").write_text(RULE.format("usr-b"))
    (run / "nsbroker.d/10-a.toml").write_text(RULE.format("run-a"))
    assert names() == ["shipped", "run-a", "usr-b"]
    (etc / "nsbroker.d/20-b.toml").write_text(RULE.format("etc-b"))
    (etc / "nsbroker.toml").write_text(RULE.format("local"))
    assert names() == ["local", "run-a", "etc-b"]


def test_a_drop_in_by_the_name_of_the_main_file_does_not_take_its_place(folders: tuple[Path, Path, Path]) -> None:
    usr, _, etc = folders
    (usr / "nsbroker.toml").write_text(RULE.format("shipped"))
    (etc / "nsbroker.d/nsbroker.toml").write_text(RULE.format("dropped-in"))
    assert names() == ["shipped", "dropped-in"]


def test_a_link_to_dev_null_masks(folders: tuple[Path, Path, Path]) -> None:
    usr, _, etc = folders
    (usr / "nsbroker.toml").write_text(RULE.format("shipped"))
    (usr / "nsbroker.d/a.toml").write_text(RULE.format("a"))
    (etc / "nsbroker.d/a.toml").symlink_to("/dev/null")
    assert names() == ["shipped"]
    (etc / "nsbroker.toml").symlink_to("/dev/null")
    assert names() == []


def test_limits_of_later_files_override_one_by_one(folders: tuple[Path, Path, Path]) -> None:
    usr, _, etc = folders
    (usr / "nsbroker.toml").write_text("[limits]\nconnections = 100\nmessage-deadline = 2.5\n")
    (etc / "nsbroker.d/a.toml").write_text("[limits]\nconnections = 200\n")
    limits = configuration.load().limits
    assert (limits.connections, limits.message_deadline, limits.connections_per_user) == (200, 2.5, 256)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[allow]\n", "not TOML.*line 1"),
        (f"[limits]\nconnections = {'9' * 8000}\n", "not TOML"),
        ('[[alow]]\nname = "x"\n', "unknown key 'alow', did you mean 'allow'"),
        (RULE.format("x") + 'namespace = ["uts"]\n', r"allow\[0\]: unknown key 'namespace', did you mean 'namespaces'"),
        (RULE.format("x") + 'origin = "here"\n', "unknown key 'origin'"),
        ('[[allow]]\nname = "x"\nwho = "everyone"\n', r"allow\[0\]: .*missing.*targets"),
        ('[[allow]]\nname = 5\nwho = "everyone"\ntargets = []\n', r"allow\[0\].name: Expected `str`"),
        ('[[allow]]\nname = "x"\nwho = 5\ntargets = []\n', r"allow\[0\].who: Expected"),
        ("[limits]\nconections = 5\n", "unknown key 'conections', did you mean 'connections'"),
        ("[limits]\nconnections = 1.5\n", "connections: Expected `int`"),
        ("[limits]\nconnections = 0\n", "connections must be above 0"),
        ("[limits]\nmessage-deadline = -1.0\n", "message-deadline must be above 0"),
        ("[limits]\nmessage-deadline = nan\n", "message-deadline must be above 0"),
        ('x = "\udcff"', "not UTF-8"),
        (RULE.format("x") + RULE.format("x"), "two rules have the name 'x'"),
    ],
)
def test_what_is_wrong_is_named_with_the_file_and_the_place(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "nsbroker.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigurationError, match=says) as caught:
        configuration.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_without_one_are_errors(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing.toml"):
        with pytest.raises(ConfigurationError, match=r"[nN]o such file"):
            configuration.load(place)


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


def test_a_fifo_and_a_huge_file_are_refused(tmp_path: Path) -> None:
    huge = tmp_path / "huge.toml"
    huge.write_text("#" * 2**20 + "\n")
    with pytest.raises(ConfigurationError, match="larger than"):
        configuration.load(huge)
    fifo = tmp_path / "fifo.toml"
    os.mkfifo(fifo)
    with pytest.raises(ConfigurationError, match="not a plain file"):
        configuration.load(fifo)
