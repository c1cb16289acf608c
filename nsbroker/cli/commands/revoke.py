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
    gone = None
    try:
        grant_files.remove_grant(options.grant)
    except CommandFailed as error:
        # The broker may still have loaded it: an earlier `grant` or `revoke` has removed the file, and could not reload.
        is_in_force = reloading.is_in_force(options.grant, grant_files.file_of(options.grant), options.timeout)
        if is_in_force is False:
            raise
        gone = None if is_in_force else error
    grant_files.remove_ended()
    reloading.reload_broker(options.timeout)
    if gone is not None:
        raise gone
    print(terminal.printable(f"{options.grant}: ended"))
    return 0
