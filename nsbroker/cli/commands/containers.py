"""`nsbroker containers`."""

import argparse

from nsbroker.cli import connection, terminal
from nsbroker.cli.output import print_json, print_table
from nsbroker.model.identity import format_id

HELP = """\
List the containers that you may open.

Engines that could not be asked are named on standard error.  The exit code is 1 when there is no container to list and an
engine could not be asked.  `nsbroker ps` is the same command."""
EXAMPLE = "nsbroker containers --json"

_SHORT_ID = 12

configure = connection.add_options


def run(options: argparse.Namespace) -> int:
    """Print the table or the JSON, and name the engines that could not be asked."""
    with connection.connect(options) as broker:
        containers, unavailable = broker.containers()
    for engine in unavailable:
        terminal.print_message(f"the containers of {engine.engine} are not listed: {engine.reason}")
    if options.json:
        print_json(containers)
    else:
        rows = [
            [
                one.engine,
                one.names[0] if one.names else one.id,
                one.id[:_SHORT_ID],
                one.state,
                one.pid,
                format_id("net", one.network_namespace) if one.network_namespace else "-",
            ]
            for one in sorted(containers, key=lambda one: (one.engine, one.names))
        ]
        print_table(["ENGINE", "NAME", "ID", "STATE", "PID", "NETWORK"], rows)
    return 1 if unavailable and not containers else 0
