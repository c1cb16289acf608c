"""Have the broker make namespaces, and hold them under a name.

A rule has to allow it for name:NAME.  `nsbroker open name:NAME` opens them, `nsbroker release NAME` lets them go.
"""

import argparse

from nsbroker.cli import arguments
from nsbroker.cli.output import print_held
from nsbroker.client.blocking import connect
from nsbroker.identity import NamespaceType


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    arguments.add_name(parser)
    arguments.add_types(parser, "net")


def run(options: argparse.Namespace) -> int:
    """Make, say what."""
    types = arguments.types(options) or [NamespaceType.NET]
    with connect() as broker:
        made = broker.create(types, name=options.name)
        for space in made.namespaces.values():
            space.close()
    print_held(options.name, [str(space) for space in made.namespaces.values()], durable=made.durable)
    return 0
