"""`nsbroker remove-extcap`."""

import argparse

from nsbroker.cli import extcap_folder

HELP = """\
Remove what install-extcap installed.

With --system it removes the program for all users, which needs root."""
EXAMPLE = "nsbroker remove-extcap"

configure = extcap_folder.add_options


def run(options: argparse.Namespace) -> int:
    """Remove the program, and print its path."""
    removed = extcap_folder.remove(system=options.system)
    print("there was nothing to remove" if removed is None else f"removed {removed}")
    return 0
