"""`nsbroker serve`."""

import argparse
import gc

from nsbroker.cli import arguments
from nsbroker.protocol.address import DEFAULT, VARIABLE, socket_path

HELP = """\
Run the broker, as root.

It listens on the socket that systemd passes, or on its own.  SIGHUP reloads the configuration, SIGTERM answers what is
under way and ends."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("--address", metavar="A", help=f"where to listen (default: ${VARIABLE}, or {DEFAULT})")
    arguments.add_config(parser)
    parser.add_argument(
        "--idle-timeout",
        metavar="SECONDS",
        type=arguments.seconds,
        help="leave when nobody was connected for so long (default: stay)",
    )


def run(options: argparse.Namespace) -> int:
    """Serve until told to stop."""
    # All that is loaded now stays: looking at it again and again would take a tenth of the time to the first answer.
    gc.disable()
    with arguments.daemon_installed():
        from nsbroker.daemon import main
    main.run(socket_path(options.address), options.config, options.idle_timeout)
    return 0
