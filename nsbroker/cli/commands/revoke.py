"""`nsbroker revoke`."""

import argparse
import os

from nsbroker.cli import arguments, connection, terminal
from nsbroker.errors import CommandFailed

HELP = """\
End a grant before its time; as root.

Descriptors that were handed over stay open."""
EXAMPLE = "nsbroker revoke grant-bob-1"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    parser.add_argument("grant", metavar="GRANT", help="the name of the grant, as `nsbroker grants` lists it")
    connection.add_timeout(parser)


def run(options: argparse.Namespace) -> int:
    """Remove the rule, and have the broker load the rest."""
    if os.geteuid() != 0:
        raise CommandFailed("only root can end a grant: run this command as root")
    with arguments.daemon_installed():
        from nsbroker.cli import grant_files, reloading
    grant_files.remove_grant(options.grant)
    grant_files.remove_ended()
    reloading.reload_broker(options.timeout)
    print(terminal.printable(f"{options.grant}: ended"))
    return 0
