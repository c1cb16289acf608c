"""`nsbroker create`."""

import argparse

from nsbroker.cli import arguments, connection
from nsbroker.cli.output import print_held
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace.creation import see_makeable

HELP = """\
Have the broker make namespaces, and hold them under a name.

A rule has to allow it for name:NAME.  `nsbroker open name:NAME` opens them, `nsbroker release NAME` lets them go."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    arguments.add_name(parser)
    arguments.add_types(parser, "net")
    connection.add_timeout(parser)


def run(options: argparse.Namespace) -> int:
    """Make, say what."""
    types = arguments.types(options) or [NamespaceType.NET]
    name = arguments.name(options)
    for kind in types:
        see_makeable(kind)
    with connection.connect(options) as broker:
        made = broker.create(types, name=name)
        for space in made.namespaces.values():
            space.close()
    print_held(name, [str(space) for space in made.namespaces.values()], durable=made.durable)
    return 0
