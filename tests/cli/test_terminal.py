"""Which characters of a text reach a terminal, and how many columns they take."""

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbroker.cli import terminal
from tests.cli.made_up import NASTY


@given(st.text())
def test_printed_text_is_one_line_without_control_characters(text: str) -> None:
    shown = terminal.printable(text)
    assert shown.isprintable()
    shown.encode()
    assert not text.isprintable() or shown == text


def test_a_nasty_command_is_shown_with_escapes() -> None:
    shown = terminal.printable(NASTY)
    assert shown.startswith("sh -c \\x1b]0;owned\\x07\\x1b[2J\\nsecond \\r\\t\\xff\\xfe \\u202egnp.exe \\x9b31m ")
    assert shown.endswith("容器")
    # os.fsdecode() turns a byte that is not text into a lone surrogate; it is shown as the byte.
    assert terminal.printable("a\udcffb") == "a\\xffb"


def test_an_output_that_is_not_unicode_gets_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert terminal.printable("容") == "\\u5bb9"
    assert terminal.if_encodable("├─ ", "|- ") == "|- "
    assert terminal.truncate("abcdefgh", 6) == "abc..."


@given(st.text(), st.integers(0, 20))
def test_truncated_text_fits(text: str, room: int) -> None:
    shown = terminal.truncate(text, room)
    assert sum(map(terminal._columns, shown)) <= room
    assert shown == text or text.startswith(shown.removesuffix("…"))
    assert terminal.truncate(text, None) == text


def test_wide_characters_take_two_columns() -> None:
    assert terminal.truncate("容器容器", 8) == "容器容器"
    assert terminal.truncate("容器容器", 7) == "容器容…"
    assert terminal.truncate("容器容器", 6) == "容器…"
