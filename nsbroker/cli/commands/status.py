"""`nsbroker status`."""

import argparse
import datetime

from nsbroker.cli import connection
from nsbroker.cli.output import print_json, print_table
from nsbroker.protocol.messages import Status

HELP = "Show the state of the broker, and which features of the kernel are there (+) or missing (-)."
EXAMPLE = "nsbroker status"

configure = connection.add_options


def run(options: argparse.Namespace) -> int:
    """Print the table or the JSON."""
    with connection.connect(options) as broker:
        status = broker.status()
    if options.json:
        print_json(status)
        return 0
    features = " ".join(f"{'+' if has else '-'}{name}" for name, has in status.features.items())
    rows: list[list[object]] = [
        ["version", status.version],
        ["configuration", _describe_faults(status)],
        ["rules", f"{status.rules}, read {_format_time(status.loaded)}"],
        ["connections", status.connections],
        ["calls", status.calls],
        ["descriptors", status.file_descriptors],
        ["held", status.held],
        ["held until", "released" if status.held_durable else "released, or the broker ends"],
        ["kernel", features],
    ]
    print_table(["WHAT", "VALUE"], [row for row in rows if row[1] is not None])
    return 0


def _describe_faults(status: Status) -> str | None:
    if status.configuration_fault:
        return f"broken, so every call is refused: {status.configuration_fault}"
    if status.reload_fault:
        return f"the last reload failed, and the rules of before are in force: {status.reload_fault}"
    return None


def _format_time(seconds: float) -> str:
    try:
        return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
    except (OverflowError, OSError, ValueError):
        return f"at {seconds:g} s, which is not a date"
