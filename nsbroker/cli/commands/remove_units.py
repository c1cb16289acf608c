"""`nsbroker remove-units`."""

import argparse

from nsbroker.cli import units

HELP = """\
Stop the broker, and remove what install-units installed; needs root.

The configuration in /etc/nsbroker stays."""
EXAMPLE = "nsbroker remove-units"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no arguments."""


def run(options: argparse.Namespace) -> int:  # noqa: ARG001 - commands have one signature
    """Remove the units, and print the files that were removed."""
    removed = units.remove()
    for place in removed:
        print(f"removed {place}")
    if not removed:
        packaged = f" (those in {units.PACKAGED.parent} belong to a package)" if units.PACKAGED.exists() else ""
        print(f"there was nothing to remove: no unit of the broker below {units.PREFIX}{packaged}")
    return 0
