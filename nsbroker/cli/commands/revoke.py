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
    # The broker may still have a grant in force whose file an earlier `grant` or `revoke` has removed, but that could not reload.
    existed = grant_files.remove_grant(options.grant) or reloading.has_loaded(
        options.grant, grant_files.file_of(options.grant), options.timeout
    )
    if existed is False:
        raise CommandFailed(f"there is no grant {options.grant!r} (`nsbroker grants` lists them)")
    grant_files.remove_ended()
    reloading.reload_broker(options.timeout)
    if existed is None:
        raise CommandFailed(f"there is no grant {options.grant!r} any more; whether there was one could not be found out")
    print(terminal.printable(f"{options.grant}: ended"))
    return 0
