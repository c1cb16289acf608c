"""`nsbroker install-units`."""

import argparse

from nsbroker.cli import units

HELP = """\
Install systemd's units of the broker, for this installation of nsbroker; as root.

They go below /usr/local/lib, where systemd looks for what did not come in a package.  Then:
systemctl enable --now nsbroker.socket

It refuses an installation that systemd could not run, or that others than root could change."""


def configure(parser: argparse.ArgumentParser) -> None:
    """It has no arguments."""


def run(options: argparse.Namespace) -> int:  # noqa: ARG001 - commands have one signature
    """Install, say what is there and what to do next."""
    units.install()
    for _, place in units.unit_files():
        print(place)
    print("next: systemctl enable --now nsbroker.socket (after an upgrade: systemctl try-restart nsbroker.service)")
    return 0
