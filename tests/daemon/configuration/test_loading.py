"""Loading: which files count, how they are merged, and that all mistakes of all files are said at once, each with its place."""

from pathlib import Path

import pytest

from nsbroker.daemon import configuration
from nsbroker.daemon.configuration import files
from nsbroker.daemon.policy import rules
from nsbroker.errors import ConfigurationError

RULE = '[[allow]]\nname = "{}"\nwho = "everyone"\ntargets = ["own"]\nnamespaces = ["net"]\n'


@pytest.fixture
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """Three configuration directories, in the order of /usr/lib, /run and /etc."""
    found = (tmp_path / "usr", tmp_path / "run", tmp_path / "etc")
    for directory in found:
        (directory / "nsbroker.d").mkdir(parents=True)
    monkeypatch.setattr(files, "DIRECTORIES", found)
    return found


def names() -> list[str]:
    return [rule.text.name for rule in configuration.load().rules]


def problems(path: Path, text: str) -> list[str]:
    """Return what is wrong with a file of this text, without the path and with the number of the line first."""
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigurationError) as caught:
        rules.load(path)
    assert str(caught.value).split("\n") == [*caught.value.problems]
    assert all(problem.startswith(f"{path}:") for problem in caught.value.problems)
    return [problem.removeprefix(f"{path}:") for problem in caught.value.problems]


def test_a_later_directory_wins_by_file_name_and_drop_ins_are_read_in_the_order_of_their_names(
    directories: tuple[Path, Path, Path],
) -> None:
    usr, run, etc = directories
    (usr / "nsbroker.toml").write_text(RULE.format("main"))
    (usr / "nsbroker.d/20-b.toml").write_text(RULE.format("usr-b"))
    (run / "nsbroker.d/10-a.toml").write_text(RULE.format("run-a"))
    assert names() == ["main", "run-a", "usr-b"]
    (etc / "nsbroker.d/20-b.toml").write_text(RULE.format("etc-b"))
    (etc / "nsbroker.toml").write_text(RULE.format("local"))
    assert names() == ["local", "run-a", "etc-b"]
    assert configuration.load().warnings() == [
        f"{usr}/nsbroker.toml: not read: replaced by {etc}/nsbroker.toml, which has the same name",
        f"{usr}/nsbroker.d/20-b.toml: not read: replaced by {etc}/nsbroker.d/20-b.toml, which has the same name",
    ]


def test_a_drop_in_with_the_name_of_the_main_file_does_not_replace_it(directories: tuple[Path, Path, Path]) -> None:
    usr, _, etc = directories
    (usr / "nsbroker.toml").write_text(RULE.format("main"))
    (etc / "nsbroker.d/nsbroker.toml").write_text(RULE.format("dropped-in"))
    assert names() == ["main", "dropped-in"]


def test_a_link_to_dev_null_disables_a_file(directories: tuple[Path, Path, Path]) -> None:
    usr, _, etc = directories
    (usr / "nsbroker.toml").write_text(RULE.format("main"))
    (usr / "nsbroker.d/a.toml").write_text(RULE.format("a"))
    (etc / "nsbroker.d/a.toml").symlink_to("/dev/null")
    assert names() == ["main"]
    (etc / "nsbroker.toml").symlink_to("/dev/null")
    assert names() == []
    (etc / "nsbroker.d/b.toml").symlink_to("/dev/null")
    disabled = [f"{path}: not read: disabled by {etc}/" for path in (usr / "nsbroker.toml", usr / "nsbroker.d/a.toml")]
    useless = f"{etc}/nsbroker.d/b.toml: not read: it is a link to /dev/null, but no other directory has a file of that name"
    warnings = configuration.load().warnings()
    assert [warning.startswith(said) for warning, said in zip(warnings, (*disabled, useless), strict=True)] == [True] * 3


def test_a_main_file_with_limits_alone_leaves_the_shipped_rules_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "DIRECTORIES", (files.DIRECTORIES[0], tmp_path))
    (tmp_path / "nsbroker.toml").write_text("[limits]\nconnections = 100\n")
    loaded = configuration.load()
    assert ([rule.text.name for rule in loaded.rules], loaded.limits.connections) == (["root", "own"], 100)
    assert loaded.warnings() == []


def test_disabling_or_replacing_the_shipped_rules_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "DIRECTORIES", (files.DIRECTORIES[0], tmp_path))
    (tmp_path / "nsbroker.d").mkdir()
    mine = tmp_path / "nsbroker.d" / configuration.SHIPPED.name
    mine.symlink_to("/dev/null")
    assert names() == []
    said = f"{configuration.SHIPPED}: not read: "
    assert configuration.load().warnings() == [f"{said}disabled by {mine}, a link to /dev/null: the shipped rules do not apply"]
    mine.unlink()
    mine.write_text(RULE.format("mine"))
    assert names() == ["mine"]
    assert configuration.load().warnings() == [f"{said}replaced by {mine}, which has the same name: the shipped rules do not apply"]


def test_files_with_other_names_are_not_read_and_warned_of(directories: tuple[Path, Path, Path]) -> None:
    _, _, etc = directories
    for name in ("web.conf", "web.toml~"):
        (etc / "nsbroker.d" / name).write_text(RULE.format("web"))
    assert names() == []
    assert configuration.load().warnings() == [
        f"{etc}/nsbroker.d/{name}: not read: its name does not end in .toml: rename it, or move it away"
        for name in ("web.conf", "web.toml~")
    ]


def test_limits_of_later_files_override_one_by_one(directories: tuple[Path, Path, Path]) -> None:
    usr, _, etc = directories
    (usr / "nsbroker.toml").write_text("[limits]\nconnections = 100\nmessage-deadline = 2.5\n")
    (etc / "nsbroker.d/a.toml").write_text("[limits]\nconnections = 200\n")
    limits = configuration.load().limits
    assert (limits.connections, limits.message_deadline, limits.connections_per_user) == (200, 2.5, 256)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# one\n[[allow]\n", "2: not TOML: "),
        (f"[limits]\nconnections = {'9' * 8000}\n", " not TOML: "),
        (f"a = {'[' * 5000}{']' * 5000}\n", " lists or tables are nested too deeply"),
        ('x = 1\ny = "\udcff"', "2: not UTF-8 text"),
        (f"{RULE.format('x')}\n{RULE.format('x')}", "8: rule 'x': name: another rule, in "),
        ("x = 1\n" + "#" * 2**20, " larger than 1048576 bytes"),
    ],
)
def test_a_file_that_makes_no_sense_is_named_with_the_line_where_there_is_one(tmp_path: Path, text: str, says: str) -> None:
    [problem] = problems(tmp_path / "nsbroker.toml", text)
    assert problem.startswith(says)


def test_all_mistakes_of_all_files_are_said_at_once(directories: tuple[Path, Path, Path]) -> None:
    usr, run, etc = directories
    (usr / "nsbroker.d/a.toml").write_text('[[allow]]\nnmae = "x"\nwho = "everybody"\ntargets = [\n  "own",\n  "nmae:x",\n]\n')
    (run / "nsbroker.d/b.toml").write_text("[limits\n")
    # In a file without other mistakes, what rules cannot be is found, too.
    (etc / "nsbroker.d/c.toml").write_text(RULE.format("c") + '[[allow]]\nname = "d"\nwho = "everyone"\ntargets = "own"\n')
    with pytest.raises(ConfigurationError) as caught:
        rules.load()
    places = [problem.partition(": ")[0] for problem in caught.value.problems]
    a, b, c = (f"{path}/nsbroker.d/{name}.toml" for path, name in ((usr, "a"), (run, "b"), (etc, "c")))
    assert places == [f"{b}:1", f"{a}:1", f"{a}:2", f"{a}:3", f"{a}:6", f"{c}:6"]
    said = ("'name' is missing", "mean 'name'", "who: 'everybody' is none of", "did you mean name:", "'d': it allows nothing")
    assert [words for words in said if words not in str(caught.value)] == []


def test_a_missing_file_and_a_directory_without_any_are_errors(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing.toml"):
        with pytest.raises(ConfigurationError, match=r"[nN]o such file"):
            configuration.load(place)


def test_a_directory_needs_no_main_file(tmp_path: Path) -> None:
    (tmp_path / "nsbroker.d").mkdir()
    (tmp_path / "nsbroker.d/a.toml").write_text(RULE.format("a"))
    assert [rule.text.name for rule in configuration.load(tmp_path).rules] == ["a"]


MANY = "".join(RULE.format(f"r{number}") for number in range(120))


@pytest.mark.parametrize(
    "text",
    [
        MANY,
        f'audit = "journal"\n{MANY}',
        f"[limits]\nconnections = 77\n{MANY}",
        f"{MANY}[limits]\nconnections = 77\n",
        f"{MANY}# the end",
        MANY.replace("\n", "\r\n"),
        # Lines that only look like the beginning of a rule:
        f'{MANY}"""\n[[allow]]\n"""',
        f'{MANY}[[allow]]\nname = """a\n[[allow]]\n"""\n',
        f'{MANY}[[allow]]\nname = "last"\nwho = [\n[[allow]]\n]\n',
        # What is wrong only in the whole:
        f"[limits]\nconnections = 77\n{MANY}[limits]\nconnections = 78\n",
        f"allow = []\n{MANY}",
        f"{MANY}[allow]\n",
        f"{MANY}[[allow]]\nname = 'x'\n[[allow]\n",
        MANY.replace('"r7"', '"r7'),
        f"[allow.x]\n{MANY}",
        f"{MANY}[audit]\n[[allow]]\n[audit]\n",
    ],
)
def test_a_file_with_many_rules_says_the_same_as_in_one_piece(tmp_path: Path, text: str) -> None:
    path = tmp_path / "nsbroker.toml"

    def said(text: str) -> object:
        path.write_bytes(text.encode())
        steps: list[int] = []
        try:
            found = rules.Loader(path).load(lambda: steps.append(1))[0]
        except ConfigurationError as error:
            return error.problems
        assert steps
        return found.limits, found.audit, [rule.text for rule in found.rules]

    # With a comment after it, no rule is parsed by itself.  The same words can stand in an error as well.
    whole = said(text.replace("[[allow]]\n", "[[allow]] #\n").replace("[[allow]]\r\n", "[[allow]] #\r\n"))
    assert str(said(text)) == str(whole).replace("[[allow]] #", "[[allow]]")
