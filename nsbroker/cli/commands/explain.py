"""`nsbroker explain`."""

import argparse
import re

from nsbroker.cli import arguments, connection
from nsbroker.cli.output import add_json, print_json, print_table
from nsbroker.errors import InvalidTarget
from nsbroker.model.socket_kind import SocketKind

HELP = """\
Show what the policy says to opening a target, without opening it: its namespaces type by type, sockets, devices.

Exit code 1 when all of what was asked for would not be allowed."""

_DEVICE = re.compile("[A-Za-z0-9_.:@-]+(/[A-Za-z0-9_.:@-]+){0,7}")
_DEVICE_MAX = 255
_DEVICE_RULE = "write its name below /dev, such as null or net/tun: letters, digits and '_.:@-', at most 255, no part '.' or '..'"


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    arguments.add_target(parser)
    arguments.add_types(parser, "all that the target has, unless sockets or devices are asked for")
    parser.add_argument(
        "--socket", metavar="F:T", action="append", help="a kind of socket: inet:stream, packet:raw, inet:stream:80 ..."
    )
    parser.add_argument("--device", metavar="NAME", action="append", help="a device below /dev: null, net/tun ...")
    connection.add_timeout(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Ask, print."""
    target, types = arguments.target(options), arguments.types(options)
    for kind in options.socket or ():
        SocketKind.parse(kind)
    for device in options.device or ():
        _see_device(device)
    with connection.connect(options) as broker:
        answer = broker.explain(target, types, sockets=options.socket, devices=options.device)
    if options.json:
        print_json(answer)
    else:
        said = [(verdict.type, verdict) for verdict in answer.verdicts]
        others = [(verdict.name, verdict) for verdict in (*(answer.sockets or ()), *(answer.devices or ()))]
        rows = [[name, "allowed" if verdict.allowed else "denied", verdict.rule or "-"] for name, verdict in (*said, *others)]
        print_table(["WHAT", "VERDICT", "RULE"], rows)
    return 0 if answer.allowed else 1


def _see_device(name: str) -> None:
    """Raises InvalidTarget for what can be the name of no device.  What there is, and for whom, the broker knows."""
    if len(name) > _DEVICE_MAX or not _DEVICE.fullmatch(name) or {".", ".."} & set(name.split("/")):
        raise InvalidTarget(f"{name[:80]!r} is no device: {_DEVICE_RULE}")
