"""What people are told of namespaces, and what of it reaches a terminal."""

import io
import pwd
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbroker.cli import formatting, terminal
from nsbroker.model.description import Holder, HolderKind
from tests.cli.made_up import NASTY, space


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (Holder(HolderKind.DESCRIPTOR, 4711, 7), "fd 7 of 4711"),
        (Holder(HolderKind.SOCKET, 4711, 9), "socket 9 of 4711"),
        (Holder(HolderKind.THREAD, 4711, 4715), "thread 4715 of 4711"),
        (Holder(HolderKind.CHILDREN, 4711), "children of 4711"),
        (Holder(HolderKind.MOUNT, path="/run/netns/blue"), "/run/netns/blue"),
        (Holder(HolderKind.MOUNT, 4711, path="/run/netns/blue"), "/run/netns/blue of 4711"),
        (Holder(HolderKind.MOUNT, path="/run/netns/a\nb\x1b"), "/run/netns/a\\nb\\x1b"),
        (Holder(HolderKind.NAMESPACE, path="user:[4026531837]"), "user:[4026531837]"),
        (Holder(HolderKind.DESCRIPTOR, path="name:lab"), "name:lab"),
    ],
)
def test_a_holder(one: Holder, said: str) -> None:
    assert formatting.holder(one) == said


def test_every_kind_of_holder_is_said() -> None:
    for kind in HolderKind:
        assert formatting.keepers(space(1, holders=[Holder(kind, 1, 2, "/x")]))


def test_containers_come_before_units_and_what_keeps_it_alive_is_said_when_no_process_does() -> None:
    descriptor, mount = Holder(HolderKind.DESCRIPTOR, 4711, 7), Holder(HolderKind.MOUNT, path="/run/netns/blue")
    assert formatting.keepers(space(1, command="x", containers=["docker:web"], units=["docker-1a.scope"])) == "docker:web"
    assert formatting.keepers(space(1, command="x", units=["a.service", "b.service", "c.service", "d.service"])) == (
        "a.service, b.service +2"
    )
    assert formatting.keepers(space(1, command="x", holders=[descriptor])) == ""
    assert formatting.keepers(space(1, holders=[descriptor, mount])) == "/run/netns/blue, fd 7 of 4711"
    assert formatting.keepers(space(1)) == ""


def test_a_user_is_named_or_numbered() -> None:
    assert formatting.user_name(0) == pwd.getpwuid(0).pw_name
    assert formatting.user_name(3999999999) == "3999999999"
    assert formatting.user_name(None) == "-"


def test_how_many_processes() -> None:
    assert [formatting.process_count(space(1, processes=count)) for count in (0, 1, 2)] == [
        "no process",
        "1 process",
        "2 processes",
    ]


@given(st.text())
def test_what_is_printed_is_one_line_that_no_terminal_obeys(text: str) -> None:
    shown = terminal.printable(text)
    assert shown.isprintable()
    shown.encode()
    assert not text.isprintable() or shown == text


def test_a_nasty_command_is_shown_as_it_is() -> None:
    shown = terminal.printable(NASTY)
    assert shown.startswith("sh -c \\x1b]0;owned\\x07\\x1b[2J\\nsecond \\r\\t\\xff\\xfe \\u202egnp.exe \\x9b31m ")
    assert shown.endswith("容器")
    # As os.fsdecode gives what is no text: the byte.
    assert terminal.printable("a\udcffb") == "a\\xffb"


def test_an_output_that_is_not_unicode_gets_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert terminal.printable("容") == "\\u5bb9"
    assert terminal.drawn("├─ ", "|- ") == "|- "
    assert terminal.cut("abcdefgh", 6) == "abc..."


@given(st.text(), st.integers(0, 20))
def test_what_is_cut_fits(text: str, room: int) -> None:
    shown = terminal.cut(text, room)
    assert sum(map(terminal._columns, shown)) <= room
    assert shown == text or text.startswith(shown.removesuffix("…"))
    assert terminal.cut(text, None) == text


def test_wide_characters_take_two_columns() -> None:
    assert terminal.cut("容器容器", 8) == "容器容器"
    assert terminal.cut("容器容器", 7) == "容器容…"
    assert terminal.cut("容器容器", 6) == "容器…"
