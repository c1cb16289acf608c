"""`nsbroker exporter`."""

import argparse
import contextlib
import resource
import signal

from nsbroker.cli import arguments, connection, terminal
from nsbroker.cli.exporter.listen_address import ListenAddress, format_url

HELP = """\
Serve Prometheus metrics of the networks of containers.

They are the networks that the rules let you open, of containers and of names: bytes, packets, errors and drops of each link, TCP
connections by state, retransmissions, overflows of listening sockets, and sockets in use.  It runs until you interrupt it."""
EXAMPLE = "nsbroker exporter --listen 10753"

_DEFAULT = "10753"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    parser.add_argument(
        "--listen",
        metavar="[ADDRESS:]PORT|unix:PATH",
        type=ListenAddress.parse,
        default=_DEFAULT,
        help=f"listen on this port (0: any free port) of ADDRESS (default: 127.0.0.1), or on a Unix socket; default: {_DEFAULT}",
    )
    connection.add_timeout(parser)


def run(options: argparse.Namespace) -> int:
    """Follow the networks, and serve their metrics until SIGINT or SIGTERM."""
    with arguments.installed("nsbroker exporter", "exporter"):
        # Imported only here, because prometheus_client need not be installed, and loading it takes time.
        from prometheus_client import CollectorRegistry

        from nsbroker.cli.exporter.metrics_server import MetricsServer
        from nsbroker.cli.exporter.network_metrics import NetworkCollector
    from nsbroker.cli.exporter.networks import Networks  # as above

    connection.describe(options)
    # Each network takes six descriptors, so raise the soft limit to the hard limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.suppress(KeyboardInterrupt), options.listen.listen() as sock:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        networks = Networks(options.timeout)
        networks.start()
        # Without `describe`, registering would collect once.
        registry = CollectorRegistry(auto_describe=False)
        registry.register(NetworkCollector(networks))
        with MetricsServer(sock, registry) as server:
            print(terminal.printable(f"metrics are served at {format_url(sock)}"), flush=True)
            server.serve_until(signal.SIGINT, signal.SIGTERM)
    return 0
