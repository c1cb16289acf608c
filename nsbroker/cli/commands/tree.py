"""`nsbroker tree`."""

import argparse
from collections.abc import Iterator, Sequence

from msgspec import Struct, field

from nsbroker.cli import connection, formatting, terminal
from nsbroker.cli.output import add_json, print_json
from nsbroker.model.description import NamespaceDescription
from nsbroker.model.identity import NamespaceType

HELP = """\
Show the trees of user namespaces, with all that each owns, and of PID namespaces.

At the root stands what has no parent, or none that the broker opens for you."""

_KINDS = (NamespaceType.USER, NamespaceType.PID)


class Node(Struct):
    """A namespace, the namespaces that it owns (user namespaces alone do), and those that it is the parent of."""

    namespace: NamespaceDescription
    owns: list[NamespaceDescription] = field(default_factory=list)
    children: list["Node"] = field(default_factory=list)


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("--type", metavar="T", choices=[*map(str, _KINDS)], help=f"{' or '.join(_KINDS)} (default: both)")
    connection.add_timeout(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Ask, put together, draw."""
    with connection.connect(options) as broker:
        spaces = broker.list()
    trees = {kind: grown(spaces, kind) for kind in _KINDS if options.type in (None, kind)}
    if options.json:
        print_json(trees)
        return 0
    for index, roots in enumerate(roots for roots in trees.values() if roots):
        if index:
            print()
        draw(roots)
    known = {one.inode for one in spaces if one.type is NamespaceType.USER}
    stray = sum(one.type is not NamespaceType.USER and one.owner not in known for one in spaces)
    if stray and NamespaceType.USER in trees:
        left = f"{stray} of {len(spaces)} namespaces, whose owners are not open to you"
        terminal.say(f"not shown: {left}; `nsbroker ls` does")
    return 0


def grown(spaces: Sequence[NamespaceDescription], kind: NamespaceType) -> list[Node]:
    """The roots of the trees of that type, everything by inode."""
    ordered = sorted(spaces, key=lambda one: one.inode)
    nodes = {one.inode: Node(one) for one in ordered if one.type is kind}
    roots: list[Node] = []
    for one in ordered:
        if one.type is kind:
            parent = nodes.get(one.parent or 0)
            (roots if parent is None else parent.children).append(nodes[one.inode])
        elif kind is NamespaceType.USER and (owner := nodes.get(one.owner or 0)) is not None:
            owner.owns.append(one)
    return roots


def draw(roots: Sequence[Node]) -> None:
    """One line each, no longer than a terminal is wide."""
    width = terminal.width()
    for root in roots:
        for lines, one in _lines("", "", root):
            name = formatting.namespace_id(one)
            room = None if width is None else max(width - len(lines) - len(name), 0)
            text = terminal.cut("".join(f"  {part}" for part in _parts(one)), room)
            print(lines + terminal.painted(name, terminal.BOLD) + terminal.painted(text, "" if one.processes else terminal.YELLOW))


def _lines(first: str, rest: str, node: Node) -> Iterator[tuple[str, NamespaceDescription]]:
    """What is drawn before each namespace, `first` before the node itself and `rest` before all below it."""
    yield first, node.namespace
    below = [*map(Node, node.owns), *node.children]
    for one in below:
        if one is below[-1]:
            yield from _lines(rest + terminal.drawn("└─ ", "`- "), rest + "   ", one)
        else:
            yield from _lines(rest + terminal.drawn("├─ ", "|- "), rest + terminal.drawn("│  ", "|  "), one)


def _parts(one: NamespaceDescription) -> Iterator[str]:
    if one.type is NamespaceType.USER and one.owner_uid is not None:
        yield f"owner {formatting.user_name(one.owner_uid)}"
    yield formatting.process_count(one)
    yield from filter(None, (formatting.keepers(one), formatting.leader(one)))
