"""What can stand on the command line of nsbroker, read from its parsers."""

import argparse
import enum
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nsbroker.model.identity import NamespaceType


class Source(enum.Enum):
    """Where a shell finds the words for an argument."""

    NOTHING = enum.auto()
    """There are none: a number, a new name, ..."""
    WORDS = enum.auto()
    """`Argument.words`."""
    FILES = enum.auto()
    TARGETS = enum.auto()
    """The targets that the user may open."""


_SOURCES = {"TARGET": Source.TARGETS, "PEER:NAME": Source.TARGETS, "PATH": Source.FILES, "FILE": Source.FILES}
# What only the user knows.  A test compares both with the metavars of all parsers.
_FREE = (
    *("SECONDS", "NAME", "WHO", "WORD", "TIME", "GRANT", "HOST", "PORT", "N", "A", "PREFIX", "IF", "FILTER", "VERSION", "OPTION"),
    *(
        "[[ADDRESS:]LISTEN:][HOST:]PORT[/udp]",
        "[ADDRESS:]PORT",
        "[ADDRESS:]PORT|unix:PATH",
        "FD",
        "FAMILY:TYPE[:PORT]",
        "user:NAME[,group:NAME][,unit:NAME][,container:NAME]",
    ),
)
KNOWN = frozenset((*_SOURCES, "T", *_FREE))
"""The metavars of arguments that this module knows.  Those with choices need no metavar."""


class Argument(NamedTuple):
    """An option (`flags` are its spellings) or a positional argument (without flags)."""

    flags: Sequence[str]
    name: str
    help: str
    takes_value: bool
    repeats: bool
    source: Source
    words: Sequence[str]

    def choose(self, *, words: str, files: str, targets: str, nothing: str) -> str:
        """Return the text for where its values come from."""
        return {Source.WORDS: words, Source.FILES: files, Source.TARGETS: targets, Source.NOTHING: nothing}[self.source]


class Command(NamedTuple):
    """A command: its name, a line about it, its options, and its positional arguments in their order."""

    name: str
    summary: str
    options: Sequence[Argument]
    positions: Sequence[Argument]


def commands(parser: argparse.ArgumentParser) -> list[Command]:
    """Return the commands of `parser`, which is that of the whole command line."""
    return [Command(name, str(sub.description).partition("\n")[0].rstrip("."), *_split(sub)) for name, sub in _find_parsers(parser)]


def _find_parsers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _split(parser: argparse.ArgumentParser) -> tuple[list[Argument], list[Argument]]:
    arguments = [_describe(action) for action in parser._actions]
    return [one for one in arguments if one.flags], [one for one in arguments if not one.flags]


def _describe(action: argparse.Action) -> Argument:
    takes_value = action.nargs != 0
    words = [str(word) for word in action.choices or ()]
    if action.metavar == "T" and not words:
        words = [*map(str, NamespaceType)]
    source = Source.WORDS if words else _SOURCES.get(str(action.metavar), Source.NOTHING)
    help_text = (action.help or "").replace("%%", "%")
    # These options can be given several times, and so can the last position.
    repeats = action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction)
    name = str(action.metavar or action.dest)
    return Argument(tuple(action.option_strings), name, help_text, takes_value, repeats, source, words)
