"""Run the broker, as root.

It listens on the socket that systemd passes, or on its own.  SIGHUP reloads the configuration, SIGTERM answers what is
under way and ends.
"""

import argparse
from pathlib import Path

from nsbroker.address import DEFAULT, VARIABLE, socket_path
from nsbroker.errors import ConfigurationError


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("--address", metavar="A", help=f"where to listen (default: ${VARIABLE}, or {DEFAULT})")
    parser.add_argument(
        "--config", metavar="PATH", type=Path, help="a configuration file, or a folder with nsbroker.toml, instead of the system's"
    )


def run(options: argparse.Namespace) -> int:
    """Serve until told to stop."""
    try:
        from nsbroker.daemon import service  # the daemon's dependencies are an extra
    except ImportError as error:
        raise ConfigurationError(f"the daemon needs the package {error.name}: pip install 'nsbroker[daemon]'") from error
    service.run(socket_path(options.address), options.config)
    return 0
