"""`nsbroker open`."""

import argparse

from nsbroker.cli import arguments, connection
from nsbroker.cli.execute import execute_with_fds
from nsbroker.model.identity import NamespaceType

HELP = """\
Run a command that inherits a target's namespaces as file descriptors.

They are passed as systemd passes sockets (sd_listen_fds(3)): as descriptors 3, 4, ... in the order of the --type options.
$LISTEN_FDS is how many there are, and $LISTEN_FDNAMES lists their types, separated by ':'."""
EXAMPLE = "nsbroker open name:blue --type net -- sh -c 'readlink /proc/self/fd/3'"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    arguments.add_target(parser)
    arguments.add_types(parser, "net")
    connection.add_timeout(parser)
    arguments.set_usage_of_command(parser)


def run(options: argparse.Namespace) -> int:
    """Open the namespaces, and replace this process by the command."""
    target, types = arguments.target(options), arguments.types(options) or [NamespaceType.NET]
    with connection.connect(options) as broker:
        namespaces = broker.open_all(target, types)
    return execute_with_fds(options.command, {str(ns_type): namespaces[ns_type].detach() for ns_type in types})
