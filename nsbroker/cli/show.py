"""Show the namespaces of a target.

Without --type: all that the policy lets you open; what it does not is named on standard error.
"""

import argparse
import contextlib
import sys

from nsbroker.cli import arguments
from nsbroker.cli.output import add_json, is_ours, print_json, print_table
from nsbroker.client.blocking import Broker, connect
from nsbroker.errors import PermissionDenied
from nsbroker.identity import NamespaceType
from nsbroker.namespace import Namespace
from nsbroker.target import Target


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    arguments.add_target(parser)
    arguments.add_types(parser, "all that the target has and you may open")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Open, look, print, close."""
    target, types = arguments.target(options), arguments.types(options)
    with connect() as broker, contextlib.ExitStack() as handles:
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
    print(f"nsbroker: not shown, the policy does not allow it: {denied}", file=sys.stderr)
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
