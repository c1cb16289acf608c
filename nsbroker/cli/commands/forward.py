"""`nsbroker forward`."""

import argparse
import asyncio
import fcntl
import resource

from nsbroker.cli import arguments, connection
from nsbroker.cli.forwarding.progress import Progress
from nsbroker.cli.forwarding.running import Wanted
from nsbroker.cli.forwarding.running import run as forward
from nsbroker.cli.forwarding.spec import Spec, parse_listen
from nsbroker.cli.output import add_json

HELP = """\
Forward local ports to ports inside a target's network, or the other way round with --reverse.

LISTEN is the port to listen on, HOST and PORT are where that leads.  Without HOST, that is the loopback; a HOST is looked up as the
other side does.  unix:PATH can stand in place of a port: where it listens with its ADDRESS, and where it leads with its HOST.  With
/udp at the end, datagrams are forwarded.

The target is looked up again for each connection, so the command still works after the target was restarted.  It runs until
you interrupt it."""
EXAMPLE = "nsbroker forward container:web 8080:80 5353:53/udp"

_FORM = "[[ADDRESS:]LISTEN:][HOST:]PORT[/udp]"
_SOCKS_PORT = "1080"
# Standard input, standard output and standard error.
_STANDARD_MAX = 2


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    arguments.add_target(parser)
    parser.add_argument(
        "specs",
        metavar=_FORM,
        nargs="*",
        type=Spec.parse,
        help="listen on port LISTEN of ADDRESS, and lead to PORT inside; default ADDRESS: 127.0.0.1, default LISTEN: same as "
        "PORT, LISTEN 0: any free port",
    )
    parser.add_argument(
        "--reverse",
        metavar=_FORM,
        action="append",
        default=[],
        type=Spec.parse,
        help="listen inside, and lead to PORT here; can be given several times",
    )
    parser.add_argument(
        "--socks",
        metavar="[ADDRESS:]PORT",
        nargs="?",
        const=_SOCKS_PORT,
        action="append",
        default=[],
        type=parse_listen,
        help=f"be a SOCKS5 proxy that connects from inside, and looks names up there (default: {_SOCKS_PORT})",
    )
    parser.add_argument(
        "--ready-fd",
        metavar="FD",
        type=_parse_fd,
        help="write a newline to this descriptor (3 or more), and close it, as soon as it listens everywhere",
    )
    connection.add_timeout(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Listen everywhere, and forward until SIGINT or SIGTERM."""
    target = arguments.target(options)
    wanted = Wanted(options.specs, options.reverse, options.socks)
    if not any(wanted):
        options.fail(f"write what to forward: {_FORM}, --reverse or --socks")
    for spec in (*(one.to for one in options.specs), *(one.listen for one in options.reverse)):
        if spec.path and not spec.path.startswith("@"):
            options.fail(f"{spec}: the files of a target cannot be reached through its network: use unix:@NAME inside")
    connection.describe(options)
    # Each connection takes two descriptors, so raise the soft limit to the hard limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(forward(target, wanted, Progress(json=options.json), options.timeout, options.ready_fd))
    return 0


def _parse_fd(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len("1073741816")):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not the number of a descriptor")
    if int(text) <= _STANDARD_MAX:
        # If it were closed, a connection could get its number, and then what is printed.
        raise argparse.ArgumentTypeError(f"descriptor {text} is standard input, output or error, and must stay open: use 3 or more")
    try:
        fcntl.fcntl(int(text), fcntl.F_GETFD)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"descriptor {text} is not open: {error.strerror}") from error
    return int(text)
