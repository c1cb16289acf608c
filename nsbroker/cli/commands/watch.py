"""`nsbroker watch`."""

import argparse
import contextlib
import signal
import sys
import time

from nsbroker.cli import arguments, connection, formatting, terminal
from nsbroker.cli.output import add_json, print_json
from nsbroker.client.events import Event
from nsbroker.model.description import NamespaceDescription, WatchEvent
from nsbroker.protocol.messages import WatchReply

HELP = """\
Show namespaces as they appear (+) and disappear (-), one line for each, until you interrupt it.

With --all, the namespaces that exist at the start are shown first (=).  With --json, each line is one JSON document."""
EXAMPLE = "nsbroker watch --type net --all"

_SIGNS = {WatchEvent.PRESENT: "=", WatchEvent.ADDED: "+", WatchEvent.GONE: "-"}
_TEXTS = {
    WatchEvent.READY: "  that is all that exists now",
    WatchEvent.MISSED: "! some changes were missed: run `nsbroker ls` to see what exists now",
}
_FOR_ALL = (WatchEvent.PRESENT, WatchEvent.READY)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    arguments.add_types(parser, "all")
    parser.add_argument("--all", action="store_true", help="show also what exists at the start (=)")
    connection.add_timeout(parser, "; waiting for the next event has no limit")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print events until SIGINT or SIGTERM."""
    types = arguments.types(options)
    with contextlib.suppress(KeyboardInterrupt):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with connection.connect(options) as broker, broker.watch(types) as events:
            for event in events:
                if options.json:
                    print_json(WatchReply(event.event, event.namespace), indent=None)
                elif options.all or event.event not in _FOR_ALL:
                    print(terminal.truncate(line(event), terminal.width()))
                sys.stdout.flush()
    return 0


def line(event: Event) -> str:
    """Return the line that is printed for one event, with the time of now."""
    one = event.namespace
    text = _TEXTS.get(event.event) or f"{_SIGNS[event.event]} {_describe(one) if one else formatting.NOTHING}"
    return f"{time.strftime('%H:%M:%S')} {text}"


def _describe(one: NamespaceDescription) -> str:
    return "  ".join(filter(None, (formatting.namespace_id(one), formatting.used_by(one), formatting.leader(one))))
