"""`nsbroker capture`."""

import argparse
import os
import re

from nsbroker.capture import EVERY_INTERFACE
from nsbroker.cli import arguments, capturing, connection, terminal
from nsbroker.errors import CommandFailed, InvalidTarget

HELP = """\
Capture the packets of a target's network, as a pcapng file that tcpdump and Wireshark can read while it grows.

It runs as an ordinary user, and needs neither tcpdump nor Wireshark.  FILTER is an expression of pcap-filter(7), such as `tcp port
80`; libpcap compiles it, and the kernel applies it.  To see packets: `nsbroker capture container:web | tcpdump -nr -`.

It ends with SIGINT (Ctrl-C) or SIGTERM, after N packets, when the reader of
standard output leaves, and when the interface goes away (exit code 1)."""
EXAMPLE = "nsbroker capture container:web -i eth0 -w web.pcapng"

_COUNT = re.compile("0*[1-9][0-9]{0,17}")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    arguments.add_target(parser)
    # argparse gives no words behind an option to an argument that may be empty; `main` does it.
    parser.add_argument("words", metavar="FILTER", nargs="*", help="capture only what fits, as in pcap-filter(7)")
    parser.add_argument(
        "-i",
        dest="interface",
        metavar="IF",
        default=EVERY_INTERFACE,
        help="capture from this interface (default: any, which is all of them)",
    )
    parser.add_argument(
        "-w",
        dest="path",
        metavar="FILE",
        default=capturing.STANDARD_OUTPUT,
        help="write to this file (default: -, which is standard output)",
    )
    parser.add_argument("-c", dest="count", metavar="N", type=_parse_count, help="end after N packets")
    connection.add_timeout(parser, "; the capture has no limit")


def run(options: argparse.Namespace) -> int:
    """Capture, and print on standard error how many packets were captured and dropped."""
    try:
        target = arguments.target(options)
    except InvalidTarget as error:
        options.fail(str(error))
    if options.path == capturing.STANDARD_OUTPUT and os.isatty(1):
        raise CommandFailed(
            "standard output is a terminal, and a capture is binary: write it to a file with -w FILE, or read it with `nsbroker "
            "capture ... | tcpdump -nr -`",
            exit_code=2,
        )
    try:
        with connection.connect(options) as broker:
            captured, dropped, gone = capturing.capture(
                broker, target, options.interface, " ".join(options.words), options.path, options.count
            )
    except BrokenPipeError:
        return 0  # The reader of standard output has seen enough.  tcpdump ends like this, too.
    packets = "1 packet" if captured == 1 else f"{captured} packets"
    terminal.print_hint(f"{packets} captured, {dropped} dropped by the kernel")
    if gone:
        raise CommandFailed(f"the capture has ended, because {gone} of {target} went away: what was captured before is written")
    return 0


def _parse_count(text: str) -> int:
    if not _COUNT.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a number of packets: write a number from 1 to {10**18 - 1}")
    return int(text)
