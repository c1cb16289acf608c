"""`nsbroker open`."""

import argparse
import fcntl
import os
from collections.abc import Sequence

from nsbroker.cli import arguments, connection
from nsbroker.cli.execute import execute
from nsbroker.model.identity import NamespaceType

HELP = """\
Run a command that inherits a target's namespaces as file descriptors.

They are passed as systemd passes sockets (sd_listen_fds(3)): as descriptors 3, 4, ... in the order of the --type options.
$LISTEN_FDS is how many there are, and $LISTEN_FDNAMES lists their types, separated by ':'."""
EXAMPLE = "nsbroker open name:blue --type net -- sh -c 'readlink /proc/self/fd/3'"

_FIRST_FD = 3


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
    _place([namespaces[ns_type].detach() for ns_type in types])
    environment = {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(types)),
        "LISTEN_FDNAMES": ":".join(types),
    }
    return execute(options.command, environment)


def _place(fds: Sequence[int]) -> None:
    """Move `fds` (taken) to the numbers from 3 on, where the command expects them, and let it inherit them."""
    # First duplicate them to higher numbers, because some of them may have the numbers that others need.
    above = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD + len(fds)) for fd in fds]
    for number, fd in enumerate(above, _FIRST_FD):
        os.dup2(fd, number, inheritable=True)
