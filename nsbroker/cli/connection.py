"""Asking the broker: what the commands that do have in common."""

import argparse

from nsbroker.cli import arguments
from nsbroker.client import blocking
from nsbroker.client.transport import PATIENCE


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """--timeout."""
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=arguments.seconds,
        default=PATIENCE,
        help=f"give up when the broker takes longer for a step of its answer (default: {PATIENCE:g})",
    )


def connect(options: argparse.Namespace) -> blocking.Broker:
    """A connection to the broker, which waits as long as --timeout says.  Raises as `nsbroker.connect`."""
    return blocking.connect(timeout=options.timeout)
