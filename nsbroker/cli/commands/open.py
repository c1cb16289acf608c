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

They are passed as systemd passes sockets (sd_listen_fds(3)): from descriptor 3 on, in the order of the --type options,
counted in $LISTEN_FDS and named in $LISTEN_FDNAMES."""

_FIRST = 3


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    arguments.add_target(parser)
    arguments.add_types(parser, "net")
    connection.add_timeout(parser)
    arguments.set_usage_of_command(parser)


def run(options: argparse.Namespace) -> int:
    """Open, then become the command."""
    target, types = arguments.target(options), arguments.types(options) or [NamespaceType.NET]
    with connection.connect(options) as broker:
        spaces = broker.open_all(target, types)
    _pass([spaces[kind].detach() for kind in types])
    environment = {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(types)),
        "LISTEN_FDNAMES": ":".join(types),
    }
    return execute(options.command, environment)


def _pass(fds: Sequence[int]) -> None:
    """Move `fds` (owned) to where the command expects them, open across exec."""
    # First out of the way of the places where they go.
    above = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST + len(fds)) for fd in fds]
    for place, fd in enumerate(above, _FIRST):
        os.dup2(fd, place, inheritable=True)
