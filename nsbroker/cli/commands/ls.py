"""`nsbroker ls`."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nsbroker.cli import arguments, connection, formatting, terminal
from nsbroker.cli.output import add_json, print_json, print_table
from nsbroker.model.description import NamespaceDescription

HELP = """\
List the namespaces that you may open, of the whole host or of one target.

PROCESSES counts only the processes through which you may open the namespace.  USED BY names the containers or units that have
processes in the namespace.  If there is no process, it names what else keeps the namespace alive."""
EXAMPLE = "nsbroker ls --type net --without-process"

_HEAD = ("NAMESPACE", "TYPE", "PROCESSES", "PID", "USER", "USED BY", "COMMAND")
_GAP = 2

# Namespaces without a process come last.
_KEYS: Mapping[str, Callable[[NamespaceDescription], Any]] = {
    "inode": lambda one: one.inode,
    "type": lambda one: one.type,
    "processes": lambda one: -one.processes,
    "pid": lambda one: (one.process is None, one.process and one.process.pid),
    "user": lambda one: (one.process is None, one.process and formatting.user_name(one.process.uid)),
    "command": lambda one: (one.process is None, one.process and one.process.command),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    parser.add_argument(
        "target", metavar="TARGET", nargs="?", help="list only the namespaces of this target: pid:4711, docker:web, ..."
    )
    arguments.add_types(parser, "all")
    parser.add_argument(
        "--sort",
        metavar="KEY",
        choices=_KEYS,
        default="inode",
        help=f"sort by one of {', '.join(_KEYS)} (default: inode); `processes` puts the highest count first",
    )
    parser.add_argument(
        "--without-process", action="store_true", help="list only namespaces without a process, which something else keeps alive"
    )
    connection.add_timeout(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print the table or the JSON."""
    target = None if options.target is None else arguments.target(options)
    types = arguments.types(options)
    with connection.connect(options) as broker:
        namespaces = broker.list(types, target=target)
    if options.without_process:
        namespaces = [one for one in namespaces if not one.processes]
    namespaces = sort_namespaces(namespaces, options.sort)
    if options.json:
        print_json(namespaces)
    else:
        print_namespaces(namespaces)
    return 0


def sort_namespaces(namespaces: Sequence[NamespaceDescription], key: str) -> list[NamespaceDescription]:
    """Sort by one of the keys of --sort, and those that are equal by inode."""
    return sorted(sorted(namespaces, key=_KEYS["inode"]), key=_KEYS[key])


def print_namespaces(namespaces: Sequence[NamespaceDescription]) -> None:
    """Print a table, one line for each namespace, with lines no longer than the terminal is wide."""
    width = terminal.width()
    rows = [_row(one, width) for one in namespaces]
    if width is not None:
        # Show part of the command even on a very narrow terminal, where the lines then wrap.
        taken = sum(_GAP + max(map(len, column)) for column in list(zip(_HEAD, *rows, strict=True))[:-1])
        room = max(width - taken, len(_HEAD[-1]))
        rows = [[*row[:-1], terminal.truncate(row[-1], room)] for row in rows]
    print_table(_HEAD, rows)


def _row(one: NamespaceDescription, width: int | None) -> list[str]:
    process = one.process
    return [
        str(one.inode),
        one.type,
        str(one.processes),
        str(process.pid) if process else formatting.NOTHING,
        formatting.user_name(process.uid) if process else formatting.NOTHING,
        terminal.truncate(formatting.used_by(one) or formatting.NOTHING, width and width // 3),
        formatting.command(process),
    ]
