"""`nsbroker hold`."""

import argparse

from nsbroker.cli import arguments, connection
from nsbroker.cli.output import print_held
from nsbroker.model.identity import NamespaceType, format_id

HELP = """\
Make the broker hold a target's namespaces under a name, so that they outlive the target.

A rule must allow you to open them, and a rule must allow you to hold them under name:NAME."""
EXAMPLE = "nsbroker hold container:web kept --type net"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    arguments.add_target(parser)
    arguments.add_name(parser)
    arguments.add_types(parser, "net")
    connection.add_timeout(parser)


def run(options: argparse.Namespace) -> int:
    """Make the broker hold the namespaces, and print which ones it holds now."""
    types = arguments.types(options) or [NamespaceType.NET]
    target, name = arguments.target(options), arguments.name(options)
    with connection.connect(options) as broker:
        durable = broker.hold(target, name, types)
        namespaces = [format_id(one.type, one.inode) for one in broker.held() if one.name == name]
    print_held(name, namespaces, durable=durable)
    return 0
