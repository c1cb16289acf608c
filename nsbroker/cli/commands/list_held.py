"""`nsbroker list-held`."""

import argparse

from nsbroker.cli import connection
from nsbroker.cli.output import print_json, print_table
from nsbroker.model.identity import format_id

HELP = "List the namespaces that the broker holds for you, and those it holds for others that you may open."
EXAMPLE = "nsbroker list-held"

configure = connection.add_options


def run(options: argparse.Namespace) -> int:
    """Print the table or the JSON."""
    with connection.connect(options) as broker:
        held = broker.held()
    if options.json:
        print_json(held)
    else:
        rows = [[one.name, format_id(one.type, one.inode), one.uid, "yes" if one.durable else "no"] for one in held]
        print_table(["NAME", "NAMESPACE", "OWNER", "OUTLIVES A RESTART"], rows)
    return 0
