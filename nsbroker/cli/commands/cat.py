"""`nsbroker cat`."""

import argparse
import io
import os
import sys

from nsbroker.cli import arguments, connection, terminal
from nsbroker.model.target_file import NAMES

_HELP = """\
Print a file of a target: its resolv.conf or hosts, or statistics of its network.

What is printed to a pipe or a file is the content as it is.  On a terminal, characters that could control it are escaped.
The files are """
HELP = f"{_HELP}{', '.join(NAMES[:8])},\n{', '.join(NAMES[8:])}."
EXAMPLE = "nsbroker cat container:web net/dev"

_READ_SIZE = 65536


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    arguments.add_target(parser)
    parser.add_argument("name", metavar="NAME", choices=NAMES, help="print this file: resolv.conf, hosts, net/dev, ...")
    connection.add_timeout(parser)


def run(options: argparse.Namespace) -> int:
    """Open the file and print it."""
    target = arguments.target(options)
    with connection.connect(options) as broker, broker.file(target, options.name) as file:
        if sys.stdout.isatty():
            _print(file)
        else:
            sys.stdout.flush()
            _write(file)
    return 0


def _print(file: io.FileIO) -> None:
    text = file.read().decode(errors="surrogateescape")
    for line in text.removesuffix("\n").split("\n") if text else ():
        # Tabs separate columns, and are harmless.
        print("\t".join(map(terminal.printable, line.split("\t"))))


def _write(file: io.FileIO) -> None:
    while data := memoryview(file.read(_READ_SIZE)):
        while data:
            data = data[os.write(1, data) :]
