"""`nsbroker release`."""

import argparse

from nsbroker.cli import arguments, connection

HELP = "Have the broker let go of what it holds for you under a name."


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    arguments.add_name(parser)
    connection.add_timeout(parser)


def run(options: argparse.Namespace) -> int:
    """Release."""
    name = arguments.name(options)
    with connection.connect(options) as broker:
        broker.release(name)
    return 0
