"""`nsbroker install-units`."""

import argparse

from nsbroker.cli import terminal, units

HELP = """\
Install systemd units that run this installation of nsbroker; needs root.

The units go below /usr/local/lib, where systemd looks for units that were installed by hand.  Man pages, if this installation has
any, go below /usr/local/share/man.  To start the broker, run afterwards: systemctl enable --now nsbroker.socket

The command refuses an installation that systemd could not run, or that anybody but root could change."""
EXAMPLE = "nsbroker install-units"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no arguments."""


def run(options: argparse.Namespace) -> int:  # noqa: ARG001 - commands have one signature
    """Install the units, print their paths, and say what to do next."""
    for place in units.install():
        print(place)
    terminal.print_hint("next: systemctl enable --now nsbroker.socket (after an upgrade: systemctl try-restart nsbroker.service)")
    return 0
