"""Text from other people, made safe to print on one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbroker.model.text import escaped
from tests.cli.imagined import HOSTILE, HOSTILE_AS_TEXT

pytestmark = pytest.mark.once


def test_names_are_shown_as_one_line_of_text() -> None:
    assert escaped(HOSTILE) == HOSTILE_AS_TEXT
    assert escaped("grün-名前") == "grün-名前"


@given(st.text())
def test_any_text_becomes_printable_and_printable_text_stays_as_it_is(text: str) -> None:
    assert escaped(text).isprintable()
    assert escaped(text) == text or not text.isprintable()


def test_a_byte_that_is_no_text_is_shown_as_that_byte_and_another_surrogate_as_its_number() -> None:
    assert escaped(b"a\xffb".decode(errors="surrogateescape")) == "a\\xffb"
    assert escaped("a\ud800b") == "a\\ud800b"


def test_controls_that_a_terminal_obeys_or_that_turn_text_around_are_escaped() -> None:
    assert escaped("\x1b[2J \x9b31m \u202egnp \u2028") == "\\x1b[2J \\x9b31m \\u202egnp \\u2028"
