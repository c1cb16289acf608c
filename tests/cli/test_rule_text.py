"""Rules that commands write are rules that the broker reads."""

import tomllib
from pathlib import Path

from nsbroker.cli import rule_text
from nsbroker.daemon import configuration


def test_a_rule_that_is_written_is_read_as_it_was_meant(tmp_path: Path) -> None:
    text = rule_text.format_rule("a", ["user:b\"'ä\\"], ["own", "path:/x\ty"], {"sockets": ["*"], "marks": [], "files": ["hosts"]})
    path = tmp_path / "nsbroker.toml"
    path.write_text(text)
    [rule] = configuration.load(path).rules
    assert (rule.text.name, rule.text.who, rule.text.targets) == ("a", ("user:b\"'ä\\",), ("own", "path:/x\ty"))
    assert (rule.text.sockets, rule.text.marks, rule.text.files) == (("*",), (), ("hosts",))


def test_every_character_of_a_target_is_written_as_toml_reads_it(tmp_path: Path) -> None:
    """Characters beyond U+FFFF have escapes of their own in TOML, and DEL must not stand there as it is."""
    text = "".join(map(chr, (*range(1, 0x100), 0x202E, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x1F600, 0x10FFFF)))
    written = rule_text.format_rule("a", ["everyone"], [text], {"sockets": ["*"]})
    assert tomllib.loads(written)["allow"][0]["targets"] == [text]
    assert written.replace("\n", "").isprintable(), "a terminal can show it"


def test_a_name_is_made_of_whom_the_rule_is_for_and_is_not_taken() -> None:
    assert rule_text.choose_name("user:bob", []) == "bob"
    assert rule_text.choose_name("user:bob", ["bob", "bob-2"]) == "bob-3"
    assert rule_text.choose_name("unit:a@b.service", []) == "a-b-service"
    assert rule_text.choose_name("cri:default/web", []) == "default-web"
    assert rule_text.choose_name("user:ä", []) == "rule"
