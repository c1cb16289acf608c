"""`nsbroker serve`."""

import argparse
import gc
import signal

from nsbroker.cli import arguments
from nsbroker.protocol.address import DEFAULT, VARIABLE, socket_path

HELP = """\
Run the broker; needs root.

It listens on the socket that systemd passes, or else on a socket that it creates.  SIGHUP reloads the configuration.  On
SIGTERM it answers the calls that it has received, and ends."""
EXAMPLE = "nsbroker serve --config ./nsbroker.toml"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    parser.add_argument(
        "--address", metavar="A", help=f"listen at this address when systemd passes no socket (default: ${VARIABLE}, or {DEFAULT})"
    )
    arguments.add_config(parser)
    parser.add_argument(
        "--idle-timeout",
        metavar="SECONDS",
        type=arguments.seconds,
        help="exit when nobody has been connected for this time and no namespaces are held; needs a socket from systemd "
        "(default: never)",
    )


def run(options: argparse.Namespace) -> int:
    """Run the broker until a signal or the idle timeout ends it."""
    # A reload that is asked for while the broker starts must not end it.  The configuration is read only after this.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # What is loaded now is never freed.  Garbage collections during start would take a tenth of the time to the first reply.
    # The daemon enables them again.
    gc.disable()
    with arguments.daemon_installed():
        from nsbroker.daemon import main
    main.run(socket_path(options.address), options.config, options.idle_timeout)
    return 0
