"""Mistakes in the tables of a file: what is written, what would be right, and the line."""

from pathlib import Path

import pytest

from nsbroker.daemon import configuration
from tests.daemon.configuration.test_loading import RULE, problems


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[alow]]\nname = "x"\n', "1: unknown key 'alow': did you mean 'allow'?"),
        ("zzz = 1\n", "1: unknown key 'zzz': known are allow, limits, engines, audit"),
        (RULE.format("x") + 'namespace = ["uts"]\n', "6: rule 'x': unknown key 'namespace': did you mean 'namespaces'?"),
        ('[[allow]]\nname = "x"\nwho = "everyone"\nsockets = "*"\n', "1: rule 'x': the key 'targets' is missing: write "),
        (RULE.format("x") + RULE.format("y").replace('"y"', "5"), "7: rule 2: name is a whole number: write text in quotes"),
        (RULE.format("-x"), "2: rule '-x': name: a name has only letters"),
        (RULE.format("x").replace('"everyone"', "5"), "3: rule 'x': who is a whole number: write text in quotes, or a list of"),
        (RULE.format("x") + "sockets = [\n'inet:stream',\n5]\n", "8: rule 'x': sockets: entry 2 is a whole number: write text"),
        (RULE.format("x") + "marks = 0x100\n", "6: rule 'x': marks is a whole number: write text in quotes, or a list"),
        (RULE.format("x") + "until = 2026-12-01T18:00:00\n", "6: rule 'x': until is a time without a zone: write the time with"),
        (RULE.format("x") + "until = 2026-12-01\n", "6: rule 'x': until is a date: "),
        (RULE.format("x") + 'until = "2h"\n', "6: rule 'x': until is text: "),
        ("allow = 5\n", "1: allow is a whole number: write [[allow]], with two brackets"),
        (RULE.format("x").replace("[[allow]]", "[allow]"), "1: allow is a table: write [[allow]], with two brackets"),
        ("allow = [true]\n", "1: rule 1 is true or false: write [[allow]]"),
        ("limits = 5\n", "1: limits is a whole number: write [limits]"),
        ("[limits]\nconections = 5\n", "2: limits: unknown key 'conections': did you mean 'connections'?"),
        ("[limits]\n\nconnections = 1.5\n", "3: limits: connections is a number with a decimal point: write a whole number, such"),
        ("limits.connections = true\n", "1: limits: connections is true or false: write a whole number"),
        ('[limits]\nmessage-deadline = "5"\n', "2: limits: message-deadline is text: write a number, such as message-deadline = 5"),
        (f"[limits]\nmessage-deadline = {'9' * 400}\n", "2: limits: message-deadline is out of range: write a number above 0, and"),
        ("[limits]\nconnections = 0\n", "2: limits: connections is out of range: write a whole number above 0"),
        ("[limits]\nmessage-deadline = -1.0\n", "2: limits: message-deadline is out of range"),
        ("[limits]\nmessage-deadline = nan\n", "2: limits: message-deadline is out of range"),
        ("[engines]\ndokcer = []\n", "2: engines: unknown key 'dokcer': did you mean 'docker'?"),
        ("engines = []\n", "1: engines is a list: write [engines]"),
        ("[engines]\ndocker = 5\n", "2: engines: docker is a whole number: write text in quotes, or a list of them"),
        ("[engines]\ndocker = [1979-05-27]\n", "2: engines: docker: entry 1 is a date: write text in quotes"),
        ('[engines]\ndocker = ["docker.sock"]\n', "2: engines: docker: 'docker.sock' is not an absolute path: "),
        ("audit = 1\n", "1: audit is a whole number: write [audit]"),
        ('[audit]\nwithout-journal = "drop"\n', '2: audit: without-journal is \'drop\': write "refuse" or "stderr"'),
        ("[audit]\nwithout_journal = 1\n", "2: audit: unknown key 'without_journal': did you mean 'without-journal'?"),
    ],
)
def test_a_mistake_is_described_in_plain_words_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    [problem] = problems(tmp_path / "nsbroker.toml", text)
    assert problem.startswith(says), problem
    assert "`" not in problem


def test_several_mistakes_of_one_rule_are_all_said(tmp_path: Path) -> None:
    found = problems(tmp_path / "nsbroker.toml", '[[allow]]\nname = 1\nwho = [2, "user:a"]\ntargets = 3\nfoo = 4\n')
    assert [one.partition(":")[0] for one in found] == ["2", "3", "4", "5"]
    assert all(": rule 1: " in one for one in found)


def test_a_text_alone_stands_for_a_list_in_every_key(tmp_path: Path) -> None:
    keys = {"who": "everyone", "targets": "own", "namespaces": "net", "sockets": "inet:stream", "marks": "0x100", "devices": "null"}
    keys |= {"interfaces": "veth", "files": "hosts", "create": "net", "hold": "*"}
    path = tmp_path / "nsbroker.toml"
    lines = "".join(f'{key} = "{word}"\n' for key, word in keys.items())
    path.write_text(f'[[allow]]\nname = "x"\n{lines}[engines]\ndocker = "/run/docker.sock"\n')
    loaded = configuration.load(path)
    [rule] = loaded.rules
    assert {key: getattr(rule.text, key) for key in keys} == {key: (word,) for key, word in keys.items()}
    assert loaded.engines == {"docker": ["/run/docker.sock"]}


def test_a_whole_number_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "nsbroker.toml"
    path.write_text("[limits]\nmessage-deadline = 3\n")
    assert configuration.load(path).limits.message_deadline == 3.0
