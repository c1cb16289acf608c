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

Without --type: all that the policy lets you open; what it does not is named on standard error."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    arguments.add_target(parser)
    arguments.add_types(parser, "all that the target has and you may open")
    connection.add_timeout(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Open, look, print, close."""
    target, types = arguments.target(options), arguments.types(options)
    with connection.connect(options) as broker, contextlib.ExitStack() as handles:
        spaces = [handles.enter_context(space) for space in _open(broker, target, types).values()]
        rows = [_describe(space) for space in spaces]
    if options.json:
        print_json(rows)
    else:
        table = [
            [row["type"], str(space), "-" if row["ownerUid"] is None else row["ownerUid"], "yes" if row["yours"] else "no"]
            for row, space in zip(rows, spaces, strict=True)
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
    spaces = broker.open_all(target, allowed)
    denied = ", ".join(verdict.type for verdict in verdicts if not verdict.allowed)
    terminal.say(f"not shown, the policy does not allow it: {denied}")
    return spaces


def _describe(space: Namespace) -> dict[str, object]:
    try:
        owner = space.owner_uid()
    except PermissionDenied:
        owner = None
    return {
        "type": space.type,
        "inode": space.inode,
        "device": space.device,
        "id": space.id.unique,
        "ownerUid": owner,
        "yours": is_ours(space),
    }
