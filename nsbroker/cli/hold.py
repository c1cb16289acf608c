"""Have the broker hold a target's namespaces under a name, so that they outlive the target.

A rule has to allow opening them, and name:NAME.
"""

import argparse

from nsbroker.cli import arguments
from nsbroker.cli.output import print_held
from nsbroker.client.blocking import connect
from nsbroker.identity import NamespaceType


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    arguments.add_target(parser)
    arguments.add_name(parser)
    arguments.add_types(parser, "net")


def run(options: argparse.Namespace) -> int:
    """Hold, say what."""
    types = arguments.types(options) or [NamespaceType.NET]
    with connect() as broker:
        durable = broker.hold(arguments.target(options), options.name, types)
        spaces = [f"{one.type}:[{one.inode}]" for one in broker.held() if one.name == options.name]
    print_held(options.name, spaces, durable=durable)
    return 0
