"""What commands show: tables for people, JSON for programs."""

import argparse
from collections.abc import Iterable, Sequence

import msgspec

from nsbroker.namespace import Namespace


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option that all listing commands have."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def is_ours(space: Namespace) -> bool:
    """Whether this process is in `space` (borrowed)."""
    with Namespace.current(space.type) as ours:
        return ours == space


def print_json(value: object) -> None:
    """One JSON document."""
    print(msgspec.json.format(msgspec.json.encode(value)).decode())


def print_held(name: str, spaces: Iterable[str], *, durable: bool) -> None:
    """What is held now, and for how long."""
    until = "released" if durable else "released, or until the broker ends: no service manager keeps them"
    print(f"name:{name} is {' '.join(spaces)}, held until it is {until}")


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns as wide as their widest cell, the last one open-ended."""
    cells = [[*head], *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
