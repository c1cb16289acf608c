"""`nsbroker add-interface`."""

import argparse
import os

from nsbroker.cli import arguments, connection
from nsbroker.cli.execute import execute_with_fds
from nsbroker.errors import InvalidTarget
from nsbroker.model.target import Target

HELP = """\
Add a network interface to a target's network, and set it up.

--veth adds a virtual cable that leads to another target's network.  --tap adds a tap for COMMAND, which gets its file descriptor
as systemd passes sockets (sd_listen_fds(3)): as descriptor 3, with the interface's name in $LISTEN_FDNAMES.  The tap ends with
the command.  Addresses and routes are up to whoever may change these networks."""
EXAMPLE = "nsbroker add-interface name:lab eth0 --veth docker:web:lab0"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    arguments.add_target(parser)
    parser.add_argument("name", metavar="NAME", help="name the interface: at most 15 bytes, such as eth0")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--veth", metavar="PEER:NAME", help="add a veth whose other end is NAME in the network of the target PEER")
    # `main` requires a command after `--` exactly for what runs a command.
    kind.add_argument("--tap", action="store_true", dest="runs_command", help="add a tap, and run COMMAND with it")
    connection.add_timeout(parser)
    parser.usage = f"{parser.prog} TARGET NAME (--veth PEER:NAME | --tap) [--timeout SECONDS] [-- COMMAND [ARGUMENT]...]"


def run(options: argparse.Namespace) -> int:
    """Add the interface; then, with a tap, replace this process by the command."""
    target = arguments.target(options)
    if options.veth is not None:
        peer, peer_name = _parse_end(options.veth)
        with connection.connect(options) as broker:
            broker.add_veth(target, options.name, peer, peer_name)
        return 0
    with connection.connect(options) as broker, broker.add_tap(target, options.name) as file:
        fd = os.dup(file.fileno())
    return execute_with_fds(options.command, {options.name: fd})


def _parse_end(text: str) -> tuple[Target, str]:
    """Parse PEER:NAME.  The name of an interface has no ':', so the last one ends the target.  Raises InvalidTarget."""
    peer, colon, name = text.rpartition(":")
    if not colon:
        raise InvalidTarget(f"--veth {text[:80]!r}: write the other target and the name of the interface there: docker:web:eth9")
    return Target.parse(peer), name
