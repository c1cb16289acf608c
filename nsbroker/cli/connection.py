"""What all commands that ask the broker share: their options, and connecting."""

import argparse

from nsbroker.cli import arguments, terminal
from nsbroker.cli.output import add_json
from nsbroker.client import blocking
from nsbroker.client.transport import DEFAULT_TIMEOUT


def add_timeout(parser: argparse.ArgumentParser, exception: str = "") -> None:
    """Add --timeout.  `exception` says what the timeout does not limit."""
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=arguments.seconds,
        default=DEFAULT_TIMEOUT,
        help=f"give up when one step (connect, send, one reply) takes the broker longer (default: {DEFAULT_TIMEOUT:g}){exception}",
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --timeout and --json, the only options of commands without arguments."""
    add_timeout(parser)
    add_json(parser)


def connect(options: argparse.Namespace) -> blocking.Broker:
    """Connect to the broker, with the timeout of --timeout.  Raises the errors of `nsbroker.connect`."""
    if not terminal.is_verbose():
        return blocking.connect(timeout=options.timeout)
    from nsbroker.cli import reporting  # imported only here, because few commands are verbose

    return reporting.connect(options.timeout)


def describe(options: argparse.Namespace) -> None:
    """Say which broker a command will ask that connects by itself; only --verbose shows it.  Raises InvalidAddress."""
    if terminal.is_verbose():
        from nsbroker.cli import reporting  # as above

        reporting.describe(options.timeout)
