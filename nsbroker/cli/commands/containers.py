"""`nsbroker ps`."""

import argparse

from nsbroker.cli import connection, terminal
from nsbroker.cli.output import add_json, print_json, print_table

HELP = """\
List the containers of which the broker opens something for you.

Engines that could not be asked are named on standard error; exit code 1 when none could be."""

_SHORT = 12


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    connection.add_timeout(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Ask, print."""
    with connection.connect(options) as broker:
        containers, unavailable = broker.containers()
    for engine in unavailable:
        terminal.say(f"the engine {engine.engine} is not listed: {engine.reason}")
    if options.json:
        print_json(containers)
    else:
        rows = [
            [
                one.engine,
                one.names[0] if one.names else one.id,
                one.id[:_SHORT],
                one.state,
                one.pid,
                f"net:[{one.network_namespace}]" if one.network_namespace else "-",
            ]
            for one in sorted(containers, key=lambda one: (one.engine, one.names))
        ]
        print_table(["ENGINE", "NAME", "ID", "STATE", "PID", "NETWORK"], rows)
    return 1 if unavailable and not containers else 0
