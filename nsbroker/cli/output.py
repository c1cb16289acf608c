"""Print results: tables for people, JSON for programs."""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence

import msgspec

from nsbroker.cli import terminal
from nsbroker.namespace import Namespace

_SURROGATES = re.compile("[\ud800-\udfff]")


def add_json(parser: argparse._ActionsContainer) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def is_ours(ns: Namespace) -> bool:
    """Return whether this process is in `ns` (borrowed)."""
    with Namespace.current(ns.type) as ours:
        return ours == ns


def print_json(value: object, indent: int | None = 2) -> None:
    """Print `value` as one JSON document in UTF-8 (RFC 8259).  Without `indent` it takes one line.

    On a terminal, every character that is not printable, or that the terminal's encoding lacks, becomes a JSON escape.
    """
    import json  # imported only here, because most commands print no JSON

    separators = None if indent else (",", ":")
    text = json.dumps(msgspec.to_builtins(value, str_keys=True), ensure_ascii=False, indent=indent, separators=separators)
    if sys.stdout.isatty():
        shown = "".join(c if c == "\n" or (c.isprintable() and _can_print(c)) else _json_escape(c) for c in text)
        print(shown, flush=True)
        return
    sys.stdout.flush()
    # UTF-8 can encode every character except lone surrogates.
    sys.stdout.buffer.write(_SURROGATES.sub(lambda surrogate: _json_escape(surrogate[0]), text).encode() + b"\n")
    sys.stdout.flush()


def _can_print(c: str) -> bool:
    return c.isascii() or terminal.if_encodable(c, "") == c


def _json_escape(c: str) -> str:
    units = c.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def print_held(name: str, namespaces: Iterable[str], *, durable: bool) -> None:
    """Print what the broker now holds under `name`, and for how long."""
    until = "released" if durable else "released, or until the broker ends: no service manager keeps them"
    print(terminal.printable(f"name:{name} is {' '.join(namespaces)}, held until it is {until}"))


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table.  Each column is as wide as its widest cell.  Cells are escaped where they are not printable."""
    cells = [[*head], *([terminal.printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
