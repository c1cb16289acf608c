"""`nsbroker release`."""

import argparse

from nsbroker.cli import arguments, connection

HELP = "Release the namespaces that the broker holds for you under a name."
EXAMPLE = "nsbroker release lab"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    parser.add_argument("name", metavar="NAME", help="release what the broker holds under this name")
    connection.add_timeout(parser)


def run(options: argparse.Namespace) -> int:
    """Make the broker release the namespaces."""
    name = arguments.name(options)
    with connection.connect(options) as broker:
        broker.release(name)
    return 0
