"""`nsbroker devices`."""

import argparse

from nsbroker.cli import arguments, connection
from nsbroker.cli.output import add_json, print_json, print_table

HELP = """\
List the character devices below a target's /dev that you may open.

--all lists every name below it, with the kind of file, if a rule allows you every device there."""
EXAMPLE = "nsbroker devices container:web"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    arguments.add_target(parser)
    parser.add_argument("--all", action="store_true", help="list the names of directories, links and other files, too")
    connection.add_timeout(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print the table or the JSON."""
    target = arguments.target(options)
    rows: list[list[object]]
    found: object
    with connection.connect(options) as broker:
        if options.all:
            found = names = broker.device_names(target)
            head, rows = ["NAME", "KIND"], [[one.name, one.kind] for one in names]
        else:
            found = devices = broker.devices(target)
            head, rows = ["NAME", "MAJOR", "MINOR"], [[device.name, device.major, device.minor] for device in devices]
    if options.json:
        print_json(found)
    else:
        print_table(head, rows)
    return 0
