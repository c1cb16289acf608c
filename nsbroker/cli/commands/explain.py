"""`nsbroker explain`."""

import argparse
import re

from nsbroker.cli import arguments, connection, terminal
from nsbroker.cli.output import add_json, print_json, print_table
from nsbroker.errors import InvalidTarget
from nsbroker.model.interface import InterfaceKind
from nsbroker.model.socket_kind import SocketKind
from nsbroker.model.target_file import NAMES

HELP = """\
Show what the policy lets you open in a target, and which rule allows it.

Nothing is opened.  Without options it answers for every namespace type of the target.  --socket, --mark, --device, --file and
--interface ask about a socket, its mark (SO_MARK), a device, a file, or a network interface that you would add.  The exit code is 1
unless everything that you asked for is allowed."""
EXAMPLE = "nsbroker explain container:web --socket inet:stream"

_DEVICE = re.compile("[A-Za-z0-9_.:@-]+(/[A-Za-z0-9_.:@-]+){0,7}")
_DEVICE_MAX = 255
_DEVICE_RULE = "write its name below /dev, such as null or net/tun: letters, digits and '_.:@-', at most 255, no part '.' or '..'"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    arguments.add_target(parser)
    arguments.add_types(parser, "all that the target has; with --socket, --mark, --device, --file or --interface: none")
    parser.add_argument(
        "--socket",
        metavar="FAMILY:TYPE[:PORT]",
        action="append",
        help="ask about this kind of socket: inet:stream, packet:raw, inet:stream:80, ...; PORT only to bind to a port below 1024",
    )
    parser.add_argument("--mark", metavar="N", type=_mark, action="append", help="ask about this mark of a socket: 0x100, 256, ...")
    parser.add_argument("--device", metavar="NAME", action="append", help="ask about this device below /dev: null, net/tun, ...")
    parser.add_argument(
        "--interface", choices=tuple(InterfaceKind), action="append", help="ask about adding an interface of this kind"
    )
    parser.add_argument(
        "--file", metavar="NAME", choices=NAMES, action="append", help="ask about this file, as in `nsbroker cat`: net/dev, ..."
    )
    connection.add_timeout(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print the table or the JSON, and return 0 only when everything is allowed."""
    target, types = arguments.target(options), arguments.types(options)
    for kind in options.socket or ():
        SocketKind.parse(kind)
    for device in options.device or ():
        _check_device(device)
    with connection.connect(options) as broker:
        explanation = broker.explain(
            target,
            types,
            sockets=options.socket,
            devices=options.device,
            marks=options.mark,
            interfaces=options.interface,
            files=options.file,
        )
    if explanation.container_unknown:
        terminal.print_hint(f"rules for your container do not apply, since it is unknown: {explanation.container_unknown}")
    if options.json:
        print_json(explanation)
    else:
        namespaces = [(verdict.type, verdict) for verdict in explanation.verdicts]
        others = [(verdict.name, verdict) for verdict in (*(explanation.sockets or ()), *(explanation.devices or ()))]
        others += [(f"interface {verdict.name}", verdict) for verdict in explanation.interfaces or ()]
        others += [(f"mark {verdict.name}", verdict) for verdict in explanation.marks or ()]
        others += [(f"file {verdict.name}", verdict) for verdict in explanation.files or ()]
        rows = [[name, "allowed" if verdict.allowed else "denied", verdict.rule or "-"] for name, verdict in (*namespaces, *others)]
        print_table(["WHAT", "VERDICT", "RULE"], rows)
    return 0 if explanation.allowed else 1


def _mark(text: str) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        number = 0
    if not 0 < number < 2**32:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a mark: write a number from 1 to 0xffffffff, such as 0x100")
    return number


def _check_device(name: str) -> None:
    """Raise InvalidTarget when `name` cannot be the name of a device.  The broker checks whether it exists and is allowed."""
    if len(name) > _DEVICE_MAX or not _DEVICE.fullmatch(name) or {".", ".."} & set(name.split("/")):
        raise InvalidTarget(f"{name[:80]!r} is not a device: {_DEVICE_RULE}")
