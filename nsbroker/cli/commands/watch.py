"""`nsbroker watch`."""

import argparse
import contextlib
import signal
import sys
import time

from nsbroker.cli import arguments, connection, formatting, terminal
from nsbroker.cli.output import add_json, print_json
from nsbroker.model.description import NamespaceDescription, WatchEvent
from nsbroker.protocol.messages import WatchReply

HELP = """\
Watch namespaces come (+) and go (-), a line each, until it is interrupted.

What is there already is shown with --all.  With --json: all that the broker tells, one JSON document in each line."""

_SIGNS = {WatchEvent.PRESENT: "=", WatchEvent.ADDED: "+", WatchEvent.GONE: "-"}
_TEXTS = {
    WatchEvent.READY: "  that is all there is now",
    WatchEvent.MISSED: "! changes went by unseen: run `nsbroker ls` to see what is there",
}
_FOR_ALL = (WatchEvent.PRESENT, WatchEvent.READY)


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    arguments.add_types(parser, "all")
    parser.add_argument("--all", action="store_true", help="what is there already, too (=)")
    connection.add_timeout(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print what comes, until a signal."""
    types = arguments.types(options)
    with contextlib.suppress(KeyboardInterrupt):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with connection.connect(options) as broker, broker.watch(types) as events:
            for event in events:
                if options.json:
                    print_json(event, indent=None)
                elif options.all or event.event not in _FOR_ALL:
                    print(terminal.cut(line(event), terminal.width()))
                sys.stdout.flush()
    return 0


def line(event: WatchReply) -> str:
    """What is printed of one event, now."""
    one = event.namespace
    text = _TEXTS.get(event.event) or f"{_SIGNS[event.event]} {_said(one) if one else formatting.NOTHING}"
    return f"{time.strftime('%H:%M:%S')} {text}"


def _said(one: NamespaceDescription) -> str:
    return "  ".join(filter(None, (formatting.namespace_id(one), formatting.keepers(one), formatting.leader(one))))
