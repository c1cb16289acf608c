"""`nsbroker hold`."""

import argparse

from nsbroker.cli import arguments, connection
from nsbroker.cli.output import print_held
from nsbroker.model.identity import NamespaceType

HELP = """\
Have the broker hold a target's namespaces under a name, so that they outlive the target.

A rule has to allow opening them, and name:NAME."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    arguments.add_target(parser)
    arguments.add_name(parser)
    arguments.add_types(parser, "net")
    connection.add_timeout(parser)


def run(options: argparse.Namespace) -> int:
    """Hold, say what."""
    types = arguments.types(options) or [NamespaceType.NET]
    target, name = arguments.target(options), arguments.name(options)
    with connection.connect(options) as broker:
        durable = broker.hold(target, name, types)
        spaces = [f"{one.type}:[{one.inode}]" for one in broker.held() if one.name == name]
    print_held(name, spaces, durable=durable)
    return 0
