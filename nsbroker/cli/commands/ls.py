"""`nsbroker ls`."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nsbroker.cli import arguments, connection, formatting, terminal
from nsbroker.cli.output import add_json, print_json, print_table
from nsbroker.model.description import NamespaceDescription

HELP = """\
List the namespaces that the broker opens for you: of the whole host, or of a target.

Processes and files are counted and named as far as you may have a namespace opened by them.  HELD BY names the containers
or units whose processes are in a namespace; when there is no process, what else keeps it alive."""

_HEAD = ("NAMESPACE", "TYPE", "PROCESSES", "PID", "USER", "HELD BY", "COMMAND")
_GAP = 2

# What is missing comes last.
_KEYS: Mapping[str, Callable[[NamespaceDescription], Any]] = {
    "inode": lambda one: one.inode,
    "type": lambda one: one.type,
    "processes": lambda one: -one.processes,
    "pid": lambda one: (one.process is None, one.process and one.process.pid),
    "user": lambda one: (one.process is None, one.process and formatting.user_name(one.process.uid)),
    "command": lambda one: (one.process is None, one.process and one.process.command),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("target", metavar="TARGET", nargs="?", help="only those of a target: pid:4711, docker:web, ...")
    arguments.add_types(parser, "all")
    parser.add_argument(
        "--sort", metavar="KEY", choices=_KEYS, default="inode", help=f"{', '.join(_KEYS)} (default: inode; most processes first)"
    )
    parser.add_argument("--without-process", action="store_true", help="only those that something else keeps alive")
    connection.add_timeout(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Ask, choose, sort, print."""
    target = None if options.target is None else arguments.target(options)
    types = arguments.types(options)
    with connection.connect(options) as broker:
        spaces = broker.list(types, target=target)
    if options.without_process:
        spaces = [one for one in spaces if not one.processes]
    spaces = arranged(spaces, options.sort)
    if options.json:
        print_json(spaces)
    else:
        print_namespaces(spaces)
    return 0


def arranged(spaces: Sequence[NamespaceDescription], key: str) -> list[NamespaceDescription]:
    """Sorted by one of the keys; what is equal, by inode."""
    return sorted(sorted(spaces, key=_KEYS["inode"]), key=_KEYS[key])


def print_namespaces(spaces: Sequence[NamespaceDescription]) -> None:
    """One line each, no longer than a terminal is wide."""
    width = terminal.width()
    rows = [_row(one, width) for one in spaces]
    if width is not None:
        # However narrow it is: some of the command.
        taken = sum(_GAP + max(map(len, column)) for column in list(zip(_HEAD, *rows, strict=True))[:-1])
        room = max(width - taken, len(_HEAD[-1]))
        rows = [[*row[:-1], terminal.cut(row[-1], room)] for row in rows]
    print_table(_HEAD, rows)


def _row(one: NamespaceDescription, width: int | None) -> list[str]:
    process = one.process
    return [
        str(one.inode),
        one.type,
        str(one.processes),
        str(process.pid) if process else formatting.NOTHING,
        formatting.user_name(process.uid) if process else formatting.NOTHING,
        terminal.cut(formatting.keepers(one) or formatting.NOTHING, width and width // 3),
        formatting.command(process),
    ]
