"""Which characters of a text reach a terminal, and how many columns they take."""

import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nsbroker
from nsbroker.cli import terminal
from nsbroker.cli.terminal import Verbosity
from tests.cli.made_up import NASTY


def test_only_what_honours_no_color_writes_colours() -> None:
    package = Path(nsbroker.__file__).parent
    with_escapes = [path for path in package.rglob("*.py") if "\\x1b" in path.read_text() or "\\033" in path.read_text()]
    assert with_escapes == [package / "cli/terminal.py"]


def test_there_are_colours_on_a_terminal_alone_and_not_if_somebody_asks_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(variable, raising=False)
    assert terminal.paint("text", terminal.RED) == "text", "the output of tests is no terminal"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert terminal.paint("text", terminal.RED) == "\x1b[31mtext\x1b[0m"
    for variable, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        monkeypatch.setenv(variable, value)
        assert terminal.paint("text", terminal.RED) == "text"
        monkeypatch.delenv(variable)


def test_hints_and_details_depend_on_the_verbosity(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for verbosity in (Verbosity.QUIET, Verbosity.VERBOSE, Verbosity.USUAL):
        terminal.set_verbosity(verbosity)
        terminal.print_hint("hint")
        terminal.print_detail("detail")
        terminal.print_message("error")
        shown[verbosity] = capsys.readouterr().err.split()[1::2]
    assert shown == {
        Verbosity.QUIET: ["error"],
        Verbosity.USUAL: ["hint", "error"],
        Verbosity.VERBOSE: ["hint", "detail", "error"],
    }


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
