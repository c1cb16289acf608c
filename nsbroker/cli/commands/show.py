"""`nsbroker show`."""

import argparse
import contextlib

from nsbroker.cli import arguments, connection, terminal
from nsbroker.cli.output import add_json, is_ours, print_json, print_table
from nsbroker.client.blocking import Broker
from nsbroker.errors import PermissionDenied
from nsbroker.model.identity import NamespaceType
from nsbroker.model.target import Target
from nsbroker.namespace import Namespace

HELP = """\
Show the namespaces of a target.

Without --type it shows every namespace that you may open, and lists the types that it left out on standard error."""
EXAMPLE = "nsbroker show pid:4711 --type net"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    arguments.add_target(parser)
    arguments.add_types(parser, "all of the target's that you may open")
    connection.add_timeout(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Open the namespaces, and print the table or the JSON."""
    target, types = arguments.target(options), arguments.types(options)
    with connection.connect(options) as broker, contextlib.ExitStack() as handles:
        namespaces = [handles.enter_context(ns) for ns in _open(broker, target, types).values()]
        rows = [_describe(ns) for ns in namespaces]
    if options.json:
        print_json(rows)
    else:
        table = [
            [row["type"], str(ns), "-" if row["ownerUid"] is None else row["ownerUid"], "yes" if row["yours"] else "no"]
            for row, ns in zip(rows, namespaces, strict=True)
        ]
        print_table(["TYPE", "NAMESPACE", "OWNER", "YOURS"], table)
    return 0


def _open(broker: Broker, target: Target, types: list[NamespaceType] | None) -> dict[NamespaceType, Namespace]:
    try:
        return broker.open_all(target, types)
    except PermissionDenied:
        if types is not None:
            raise
        verdicts = broker.explain(target).verdicts
        allowed = [verdict.type for verdict in verdicts if verdict.allowed]
        if not allowed or len(allowed) == len(verdicts):
            raise
    namespaces = broker.open_all(target, allowed)
    denied = ", ".join(verdict.type for verdict in verdicts if not verdict.allowed)
    terminal.print_hint(f"not shown, because the policy does not allow it: {denied}")
    return namespaces


def _describe(ns: Namespace) -> dict[str, object]:
    try:
        owner = ns.owner_uid()
    except PermissionDenied:
        owner = None
    return {
        "type": ns.type,
        "inode": ns.inode,
        "device": ns.device,
        "id": ns.id.unique,
        "ownerUid": owner,
        "yours": is_ours(ns),
    }
