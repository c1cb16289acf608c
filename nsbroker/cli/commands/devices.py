"""`nsbroker devices`."""

import argparse

from nsbroker.cli import arguments, connection
from nsbroker.cli.output import add_json, print_json, print_table

HELP = "List the character devices below a target's /dev that you may open."
EXAMPLE = "nsbroker devices container:web"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    arguments.add_target(parser)
    connection.add_timeout(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print the table or the JSON."""
    target = arguments.target(options)
    with connection.connect(options) as broker:
        devices = broker.devices(target)
    if options.json:
        print_json(devices)
    else:
        print_table(["NAME", "MAJOR", "MINOR"], [[device.name, device.major, device.minor] for device in devices])
    return 0
