"""`nsbroker tree`."""

import argparse
from collections.abc import Iterator, Sequence

from msgspec import Struct, field

from nsbroker.cli import connection, formatting, terminal
from nsbroker.cli.output import add_json, print_json
from nsbroker.model.description import NamespaceDescription
from nsbroker.model.identity import NamespaceType

HELP = """\
Show user namespaces as a tree, with the namespaces that each owns, and PID namespaces as a tree.

A namespace whose parent you may not open is shown as a root."""
EXAMPLE = "nsbroker tree --type user"

_TYPES = (NamespaceType.USER, NamespaceType.PID)


class Node(Struct):
    """A namespace of a tree, the namespaces that it owns (only user namespaces own others), and its child namespaces."""

    namespace: NamespaceDescription
    owns: list[NamespaceDescription] = field(default_factory=list)
    children: list["Node"] = field(default_factory=list)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    parser.add_argument(
        "--type",
        metavar="T",
        choices=[*map(str, _TYPES)],
        help=f"show only the tree of this type: {' or '.join(_TYPES)} (default: both)",
    )
    connection.add_timeout(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Draw the trees or print the JSON, and say how many namespaces are in no tree."""
    with connection.connect(options) as broker:
        namespaces = broker.list()
    trees = {ns_type: build_tree(namespaces, ns_type) for ns_type in _TYPES if options.type in (None, ns_type)}
    if options.json:
        print_json(trees)
        return 0
    for index, roots in enumerate(roots for roots in trees.values() if roots):
        if index:
            print()
        draw(roots)
    known = {one.inode for one in namespaces if one.type is NamespaceType.USER}
    without_owner = sum(one.type is not NamespaceType.USER and one.owner not in known for one in namespaces)
    if without_owner and NamespaceType.USER in trees:
        left_out = f"{without_owner} of {len(namespaces)} namespaces, whose owners you may not open"
        terminal.print_hint(f"not shown: {left_out}; `nsbroker ls` shows them")
    return 0


def build_tree(namespaces: Sequence[NamespaceDescription], ns_type: NamespaceType) -> list[Node]:
    """Build the tree of the namespaces of `ns_type`, and return its roots.  Everything is sorted by inode."""
    ordered = sorted(namespaces, key=lambda one: one.inode)
    nodes = {one.inode: Node(one) for one in ordered if one.type is ns_type}
    roots: list[Node] = []
    for one in ordered:
        if one.type is ns_type:
            parent = nodes.get(one.parent or 0)
            (roots if parent is None else parent.children).append(nodes[one.inode])
        elif ns_type is NamespaceType.USER and (owner := nodes.get(one.owner or 0)) is not None:
            owner.owns.append(one)
    return roots


def draw(roots: Sequence[Node]) -> None:
    """Print the trees, one line for each namespace, no longer than the terminal is wide."""
    width = terminal.width()
    for root in roots:
        for lines, one in _walk("", "", root):
            name = formatting.namespace_id(one)
            room = None if width is None else max(width - len(lines) - len(name), 0)
            text = terminal.truncate("".join(f"  {part}" for part in _describe(one)), room)
            print(lines + terminal.paint(name, terminal.BOLD) + terminal.paint(text, "" if one.processes else terminal.YELLOW))


def _walk(first: str, rest: str, node: Node) -> Iterator[tuple[str, NamespaceDescription]]:
    """Yield each namespace of the tree and the lines to draw before it: `first` before `node`, `rest` before all below it."""
    yield first, node.namespace
    below = [*map(Node, node.owns), *node.children]
    for one in below:
        if one is below[-1]:
            yield from _walk(rest + terminal.if_encodable("└─ ", "`- "), rest + "   ", one)
        else:
            yield from _walk(rest + terminal.if_encodable("├─ ", "|- "), rest + terminal.if_encodable("│  ", "|  "), one)


def _describe(one: NamespaceDescription) -> Iterator[str]:
    if one.type is NamespaceType.USER and one.owner_uid is not None:
        yield f"owner {formatting.user_name(one.owner_uid)}"
    yield formatting.process_count(one)
    yield from filter(None, (formatting.used_by(one), formatting.leader(one)))
