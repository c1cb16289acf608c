"""The lines of keys, in every way in which TOML can be written."""

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbroker.daemon.configuration.locate import line_numbers
from nsbroker.daemon.configuration.settings import Keys

TEXT = '''\
# a comment with [[allow]] and key = "value"
title = "x"
limits.connections = 5
engines = { docker = ["/a", "/b"], "podman" = [] } # ] }

[[allow]]
name = """
several
lines = 5 \\""" ["""
who = ["user:a", # one ]
  'user:b', [
    "deep" ],
  """
x""",
  "last",
]
"quoted key" = 1

[[allow]]
name = 'a # "string" = ['
[ allow . "sub.table" ]
"a\\u0062" = 1979-05-27 07:32:00.5Z
[audit]
'''


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("title",), 2),
        (("limits",), 3),
        (("limits", "connections"), 3),
        (("engines", "docker"), 4),
        (("engines", "docker", 1), 4),
        (("engines", "podman"), 4),
        (("allow",), 6),
        (("allow", 0), 6),
        (("allow", 0, "name"), 7),
        (("allow", 0, "who"), 10),
        (("allow", 0, "who", 0), 10),
        (("allow", 0, "who", 1), 11),
        (("allow", 0, "who", 2, 0), 12),
        (("allow", 0, "who", 3), 13),
        (("allow", 0, "who", 4), 15),
        (("allow", 0, "quoted key"), 17),
        (("allow", 1), 19),
        (("allow", 1, "name"), 20),
        (("allow", 1, "sub.table"), 21),
        (("allow", 1, "sub.table", "ab"), 22),
        (("audit",), 23),
        # What is not there has the line of what is around it.
        (("allow", 1, "targets"), 19),
        (("audit", "x", 3), 23),
        (("nothing",), 0),
        ((), 0),
    ],
)
def test_the_line_of_a_place(keys: Keys, line: int) -> None:
    tomllib.loads(TEXT)
    assert line_numbers(TEXT, [keys]) == {keys: line}


@pytest.mark.parametrize(
    "text", ["", "\n", "a = 1", "a = []", "a = {}", "a = [[[1]]]", 'a = "" # "', "a = ''''''", 'a = """"x"""""']
)
def test_short_texts(text: str) -> None:
    tomllib.loads(text)
    expected = 1 if text.strip() else 0
    assert line_numbers(text, [("a",)]) == {("a",): expected}


def test_lines_end_with_a_carriage_return_or_without_one() -> None:
    assert line_numbers("a = 1\r\n\r\n[b]\r\nc = 2\r\n", [("b", "c")]) == {("b", "c"): 4}


_text = st.text("ab\"'\\[]{},=.# \n", max_size=6)
_value = st.recursive(st.one_of(st.integers(0, 9), st.booleans(), _text), lambda inner: st.lists(inner, max_size=3), max_leaves=6)


@given(st.lists(st.dictionaries(_text, _value, max_size=3), max_size=4))
def test_each_key_is_where_it_was_written(tables: list[dict[str, Any]]) -> None:
    """Documents are written with each key on a line of its own, so it is known where it must be found."""
    lines: list[str] = []
    expected: dict[Keys, int] = {}
    for number, table in enumerate(tables):
        lines.append("[[allow]]")
        expected["allow", number] = len(lines)
        for key, value in table.items():
            lines.append(f"{json.dumps(key)} = {json.dumps(value)}")
            expected["allow", number, key] = len(lines)
            if isinstance(value, list):
                expected |= {("allow", number, key, index): len(lines) for index in range(len(value))}
    text = "\n".join(lines)
    tomllib.loads(text)
    assert line_numbers(text, expected) == expected
