"""List the character devices of a target that the broker opens for you, by their names below its /dev."""

import argparse

from nsbroker.cli import arguments
from nsbroker.cli.output import add_json, print_json, print_table
from nsbroker.client.blocking import connect


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    arguments.add_target(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Ask, print."""
    with connect() as broker:
        devices = broker.devices(arguments.target(options))
    if options.json:
        print_json(devices)
    else:
        print_table(["NAME", "MAJOR", "MINOR"], [[device.name, device.major, device.minor] for device in devices])
    return 0
