"""Have the broker let go of what it holds for you under a name."""

import argparse

from nsbroker.cli import arguments
from nsbroker.client.blocking import connect


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    arguments.add_name(parser)


def run(options: argparse.Namespace) -> int:
    """Release."""
    with connect() as broker:
        broker.release(options.name)
    return 0
