"""`nsbroker status`."""

import argparse
import datetime

from nsbroker.cli import arguments, connection
from nsbroker.cli.output import add_json, print_json, print_table
from nsbroker.protocol.messages import Status

HELP = "Show the state of the broker, and which features of the kernel are there (+) or missing (-)."
EXAMPLE = "nsbroker status"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    connection.add_timeout(parser)
    either = parser.add_mutually_exclusive_group()
    add_json(either)
    either.add_argument("--prometheus", action="store_true", help="print metrics in the text format of Prometheus")


def run(options: argparse.Namespace) -> int:
    """Print the table, the JSON or the metrics."""
    if options.prometheus:
        with arguments.installed("nsbroker status --prometheus", "exporter"):
            # Imported only here, because prometheus_client need not be installed, and loading it takes time.
            from nsbroker.cli.exporter import broker_metrics
    with connection.connect(options) as broker:
        status = broker.status()
    if options.json:
        print_json(status)
        return 0
    if options.prometheus:
        print(broker_metrics.text(status), end="")
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
        ["verdicts", _describe_counts(status.verdicts)],
        ["limits reached", _describe_counts(status.limits_reached)],
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


def _describe_counts(counts: dict[str, int] | None) -> str | None:
    """Return the numbers in one line; None if there are none."""
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items())) if counts else None


def _format_time(seconds: float) -> str:
    try:
        return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
    except (OverflowError, OSError, ValueError):
        return f"at {seconds:g} s, which is not a date"
