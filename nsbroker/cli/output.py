"""What commands show: tables for people, JSON for programs."""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence

import msgspec

from nsbroker.cli import terminal
from nsbroker.namespace import Namespace

_HALVES = re.compile("[\ud800-\udfff]")


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option that all listing commands have."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def is_ours(space: Namespace) -> bool:
    """Whether this process is in `space` (borrowed)."""
    with Namespace.current(space.type) as ours:
        return ours == space


def print_json(value: object, indent: int | None = 2) -> None:
    """One JSON document, in UTF-8, as JSON is.  Without `indent` it is a line.

    On a terminal everything that is not printable, or that it has no character for, is an escape of JSON's.
    """
    import json  # only here: most commands print none

    separators = None if indent else (",", ":")
    text = json.dumps(msgspec.to_builtins(value, str_keys=True), ensure_ascii=False, indent=indent, separators=separators)
    if sys.stdout.isatty():
        shown = "".join(c if c == "\n" or (c.isprintable() and _has(c)) else _json_escape(c) for c in text)
        print(shown, flush=True)
        return
    sys.stdout.flush()
    # Halves of surrogate pairs are the one thing that cannot be written in UTF-8.
    sys.stdout.buffer.write(_HALVES.sub(lambda half: _json_escape(half[0]), text).encode() + b"\n")
    sys.stdout.flush()


def _has(c: str) -> bool:
    return c.isascii() or terminal.drawn(c, "") == c


def _json_escape(c: str) -> str:
    units = c.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def print_held(name: str, spaces: Iterable[str], *, durable: bool) -> None:
    """What is held now, and for how long."""
    until = "released" if durable else "released, or until the broker ends: no service manager keeps them"
    print(terminal.printable(f"name:{name} is {' '.join(spaces)}, held until it is {until}"))


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns as wide as their widest cell, the last one open-ended."""
    cells = [[*head], *([terminal.printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
