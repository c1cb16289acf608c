"""`nsbroker held`."""

import argparse

from nsbroker.cli import connection
from nsbroker.cli.output import add_json, print_json, print_table

HELP = "List what the broker holds for you, or that you may open."


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    connection.add_timeout(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Ask, print."""
    with connection.connect(options) as broker:
        held = broker.held()
    if options.json:
        print_json(held)
    else:
        rows = [[one.name, f"{one.type}:[{one.inode}]", one.uid, "yes" if one.durable else "no"] for one in held]
        print_table(["NAME", "NAMESPACE", "OWNER", "OUTLIVES A RESTART"], rows)
    return 0
