import os
from pathlib import Path

import pytest

from nsbroker.daemon import configuration
from nsbroker.errors import ConfigurationError
from tests.world import ALICE

RULE = '[[allow]]\nname = "{}"\nwho = "everyone"\ntargets = ["own"]\nnamespaces = ["net"]\n'


@pytest.fixture
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """Three configuration directories, in the order of /usr/lib, /run and /etc."""
    found = (tmp_path / "usr", tmp_path / "run", tmp_path / "etc")
    for directory in found:
        (directory / "nsbroker.d").mkdir(parents=True)
    monkeypatch.setattr(configuration, "DIRECTORIES", found)
    return found


def names() -> list[str]:
    return [rule.text.name for rule in configuration.load().rules]


def test_a_later_directory_wins_by_file_name_and_drop_ins_are_read_in_the_order_of_their_names(
    directories: tuple[Path, Path, Path],
) -> None:
    usr, run, etc = directories
    (usr / "nsbroker.toml").write_text(RULE.format("shipped"))
    (usr / "nsbroker.d/20-b.toml").write_text(RULE.format("usr-b"))
    (run / "nsbroker.d/10-a.toml").write_text(RULE.format("run-a"))
    assert names() == ["shipped", "run-a", "usr-b"]
    (etc / "nsbroker.d/20-b.toml").write_text(RULE.format("etc-b"))
    (etc / "nsbroker.toml").write_text(RULE.format("local"))
    assert names() == ["local", "run-a", "etc-b"]


def test_a_drop_in_with_the_name_of_the_main_file_does_not_replace_it(directories: tuple[Path, Path, Path]) -> None:
    usr, _, etc = directories
    (usr / "nsbroker.toml").write_text(RULE.format("shipped"))
    (etc / "nsbroker.d/nsbroker.toml").write_text(RULE.format("dropped-in"))
    assert names() == ["shipped", "dropped-in"]


def test_a_link_to_dev_null_masks_a_file(directories: tuple[Path, Path, Path]) -> None:
    usr, _, etc = directories
    (usr / "nsbroker.toml").write_text(RULE.format("shipped"))
    (usr / "nsbroker.d/a.toml").write_text(RULE.format("a"))
    (etc / "nsbroker.d/a.toml").symlink_to("/dev/null")
    assert names() == ["shipped"]
    (etc / "nsbroker.toml").symlink_to("/dev/null")
    assert names() == []


def test_limits_of_later_files_override_one_by_one(directories: tuple[Path, Path, Path]) -> None:
    usr, _, etc = directories
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
        (RULE.format("x") + 'namespace = ["uts"]\n', "rule 1: unknown key 'namespace', did you mean 'namespaces'"),
        (RULE.format("x") + 'origin = "here"\n', "unknown key 'origin'"),
        ('[[allow]]\nname = "x"\nwho = "everyone"\n', "rule 1: the key 'targets' is missing"),
        (RULE.format("x") + "[[allow]]\nname = 5\n", "rule 2: name: expected a string, got a whole number"),
        ('[[allow]]\nname = "x"\nwho = 5\ntargets = []\n', "rule 1: who: expected a string or a list, got a whole number"),
        (RULE.format("x") + 'sockets = ["inet:stream", 5]\n', "rule 1: sockets: entry 2: expected a string, got a whole number"),
        ("allow = 5\n", "allow: expected a list, got a whole number"),
        ("allow = [true]\n", "rule 1: expected a table, got a boolean"),
        ("[limits]\nconections = 5\n", "limits: unknown key 'conections', did you mean 'connections'"),
        ('[limits]\n"a`b" = 5\n', "limits: unknown key 'a`b'"),
        ("[limits]\nconnections = 1.5\n", "limits.connections: expected a whole number, got a floating-point number"),
        ('[limits]\nmessage-deadline = "5"\n', "limits.message-deadline: expected a number, got a string"),
        (f"[limits]\nmessage-deadline = {'9' * 400}\n", "limits.message-deadline: wrong value"),
        ("[engines]\ndokcer = []\n", "engines: 'dokcer' is no engine"),
        ('[engines]\ndocker = "/run/docker.sock"\n', "engines.docker: expected a list, got a string"),
        ("[engines]\ndocker = [1979-05-27]\n", "engines.docker: entry 1: expected a string, got a date"),
        ('[engines]\ndocker = ["docker.sock"]\n', "engines.docker: 'docker.sock' is not an absolute path"),
        ('[audit]\nwithout-journal = "drop"\n', "audit.without-journal: expected 'refuse' or 'stderr', got 'drop'"),
        ("[limits]\nconnections = 0\n", "limits.connections must be above 0"),
        ("[limits]\nmessage-deadline = -1.0\n", "message-deadline must be above 0"),
        ("[limits]\nmessage-deadline = nan\n", "message-deadline must be above 0"),
        ('x = "\udcff"', "not UTF-8"),
        (RULE.format("x") + RULE.format("x"), "two rules have the name 'x'"),
    ],
)
def test_errors_name_the_file_and_the_place(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "nsbroker.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigurationError, match=says) as caught:
        configuration.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_directory_without_one_are_errors(tmp_path: Path) -> None:
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
    with pytest.raises(ConfigurationError, match="not a regular file"):
        configuration.load(fifo)
