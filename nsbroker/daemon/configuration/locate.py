"""The lines of keys in a TOML file, for messages.  tomllib does not keep them.

It is only for text that tomllib has read without an error, so it does not check the syntax again.  See toml.io/en/v1.0.0.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from nsbroker.daemon.configuration.settings import Keys

# A string with three quotes can end in up to five: the last three end it.
_TOKEN = re.compile(
    r"""
    (?P<newline>\n)
    | (?P<blank>[ \t\r]+|\#[^\n]*)
    | (?P<string>\"{3}(?:[^\\]|\\.)*?\"{3,5}(?!\")|'{3}.*?'{3,5}(?!')|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')
    | (?P<mark>[\[\]{},=.])
    | (?P<bare>[^\s\[\]{},=."'\#]+)
    """,
    re.VERBOSE | re.DOTALL,
)


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


class _Container:
    """An array or an inline table that is being read: its place, and the entry that is being read."""

    def __init__(self, place: Keys, *, is_array: bool) -> None:
        self.place = place
        self.is_array = is_array
        self.number = 0
        self.key: list[str] = []
        self.has_key = False

    def next(self) -> None:
        """Go to the next entry."""
        self.number += 1
        self.key, self.has_key = [], False

    @property
    def entry(self) -> Keys:
        """The place of the entry."""
        return (*self.place, self.number) if self.is_array else (*self.place, *self.key)


def line_numbers(text: str, wanted: Iterable[Keys]) -> dict[Keys, int]:
    """Return the number of the line, from 1, of each place that is wanted.

    A place that is not there has the line of the nearest place around it that is: for a missing key, that of its table.  It is 0
    for the file as a whole.
    """
    places = set(wanted)
    around = {place[:length] for place in places for length in range(len(place) + 1)}
    found: dict[Keys, int] = {(): 0}
    for place, line in _read(text):
        # The first mention counts: a table has its header, and with dotted keys its first key.
        if place in around and place not in found:
            found[place] = line
    return {place: next(found[place[:n]] for n in range(len(place), -1, -1) if place[:n] in found) for place in places}


def _read(text: str) -> Iterator[tuple[Keys, int]]:
    """Yield each place in the text with its line.  Those of dotted keys come with all tables on their way."""
    tokens = _tokens(text)
    table: Keys = ()
    counts: dict[Keys, int] = {}
    for token in tokens:
        if token.kind == "newline":
            continue
        if token.text == "[":
            table = _read_header(tokens, counts)
            yield from _mentioned((), table, token.line)
            continue
        key = [_key(token)]
        for part in tokens:
            if part.text == "=":
                break
            if part.text != ".":
                key.append(_key(part))
        yield from _mentioned(table, key, token.line)
        yield from _read_value(tokens, (*table, *key))


def _read_header(tokens: Iterator[_Token], counts: dict[Keys, int]) -> Keys:
    """Return the place of the table whose header follows.  `counts` has how many tables each array of tables has so far."""
    parts: list[str] = []
    is_array = False
    for token in tokens:
        if token.kind == "newline":
            break
        if token.text == "[":
            is_array = True
        elif token.text not in (".", "]"):
            parts.append(_key(token))
    place: Keys = ()
    for number, part in enumerate(parts, 1):
        place = (*place, part)
        if is_array and number == len(parts):
            counts[place] = counts.get(place, 0) + 1
        if place in counts:
            place = (*place, counts[place] - 1)
    return place


def _read_value(tokens: Iterator[_Token], place: Keys) -> Iterator[tuple[Keys, int]]:
    """Read up to the end of the value at `place`, and yield the places in it."""
    opened: list[_Container] = []
    for token in tokens:
        inside = opened[-1] if opened else None
        if token.kind == "newline":
            if inside is None:
                return
            continue
        if token.text in ("]", "}"):
            opened.pop()
        elif token.text == "," and inside is not None:
            inside.next()
        elif inside is not None and not inside.is_array and not inside.has_key:
            if token.text == "=":
                inside.has_key = True
                yield from _mentioned(inside.place, inside.key, token.line)
            elif token.kind != "mark":
                inside.key.append(_key(token))
        else:
            here = place if inside is None else inside.entry
            yield here, token.line
            if token.text in ("[", "{"):
                opened.append(_Container(here, is_array=token.text == "["))


def _mentioned(table: Keys, key: Iterable[str | int], line: int) -> Iterator[tuple[Keys, int]]:
    place = table
    for part in key:
        place = (*place, part)
        yield place, line


def _key(token: _Token) -> str:
    if token.kind != "string":
        return token.text
    return str(tomllib.loads(f"key = {token.text}")["key"])


def _tokens(text: str) -> Iterator[_Token]:
    """Yield what the text consists of, without blanks and comments."""
    line = 1
    for match in _TOKEN.finditer(text):
        kind, part = match.lastgroup or "", match[0]
        if kind != "blank":
            yield _Token(kind, part, line)
        line += part.count("\n")
