"""`nsbroker remove-units`."""

import argparse

from nsbroker.cli import units

HELP = "Stop the broker, and take away all that install-units wrote; as root.  The configuration in /etc stays."


def configure(parser: argparse.ArgumentParser) -> None:
    """It has no arguments."""


def run(options: argparse.Namespace) -> int:  # noqa: ARG001 - commands have one signature
    """Remove, and say what was there."""
    removed = units.remove()
    for place in removed:
        print(f"removed {place}")
    if not removed:
        print(f"there was nothing to remove: no unit of the broker below {units.PREFIX}")
    return 0
