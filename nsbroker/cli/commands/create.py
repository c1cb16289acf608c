"""`nsbroker create`."""

import argparse

from nsbroker.cli import arguments, connection
from nsbroker.cli.output import print_held
from nsbroker.errors import InvalidType
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace.creation import check_creatable

HELP = """\
Create namespaces that the broker holds under a name.

The policy must allow you to create and to hold these types under name:NAME.  `nsbroker open name:NAME` opens the namespaces,
`nsbroker release NAME` releases them."""
EXAMPLE = "nsbroker create lab --type net --type uts"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    arguments.add_name(parser)
    arguments.add_types(parser, "net")
    parser.add_argument("--up", action="store_true", help="set the interface lo in the new network up")
    connection.add_timeout(parser)


def run(options: argparse.Namespace) -> int:
    """Create the namespaces, and print which ones the broker holds now."""
    types = arguments.types(options) or [NamespaceType.NET]
    name = arguments.name(options)
    for ns_type in types:
        check_creatable(ns_type)
    if options.up and NamespaceType.NET not in types:
        raise InvalidType("--up sets lo in a new network up: add --type net")
    with connection.connect(options) as broker:
        created = broker.create(types, name=name, up=options.up)
        for ns in created.namespaces.values():
            ns.close()
    print_held(name, [str(ns) for ns in created.namespaces.values()], durable=created.durable)
    return 0
