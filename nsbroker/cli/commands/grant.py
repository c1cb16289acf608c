"""`nsbroker grant`."""

import argparse
import contextlib
import os
import re

from nsbroker.cli import arguments, connection, terminal
from nsbroker.errors import CommandFailed, NsbrokerError
from nsbroker.model.target import Target

HELP = """\
Give somebody rights for a limited time; as root.

WHO and TARGET are written as in a rule: user:bob, group:dev, unit:agent.service; docker:web-*, name:blue, own.  The grant ends
after the time given with --for, with `nsbroker revoke`, and with the next boot.  Descriptors that were handed over stay open.
A broker that was started with --config has no grants."""
EXAMPLE = "nsbroker grant user:bob container:web --sockets inet:stream --for 2h"

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_EXAMPLES = {
    "namespaces": "net",
    "sockets": "inet:stream",
    "marks": "0x100",
    "devices": "null",
    "files": "net/dev",
    "interfaces": "veth",
    "create": "net",
    "hold": "net",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    parser.add_argument(
        "who", metavar="WHO", help="whom to give rights to: user:NAME, group:NAME, unit:NAME.service, docker:NAME, everyone"
    )
    parser.add_argument("targets", metavar="TARGET", nargs="+", help="the target of the rights, or a pattern such as docker:web-*")
    for key, example in _EXAMPLES.items():
        parser.add_argument(f"--{key}", metavar="WORD", nargs="+", default=[], help=f"as `{key}` in a rule: {example}, ...")
    parser.add_argument(
        "--for", metavar="TIME", dest="seconds", type=duration, required=True, help="how long: 90s, 30m, 2h, 1d, 1h30m"
    )
    connection.add_timeout(parser)


def run(options: argparse.Namespace) -> int:
    """Write the rule, and have the broker load it."""
    if os.geteuid() != 0:
        raise CommandFailed("only root can give rights: run this command as root")
    permissions = {key: getattr(options, key) for key in _EXAMPLES}
    for target in options.targets:
        if not {"*", "?"} & set(target) and target != "own":
            Target.parse(target)
    with arguments.daemon_installed():
        from nsbroker.cli import grant_files, reloading
    grant_files.remove_ended()
    name = grant_files.write_grant(grant_files.Grant(options.who, options.targets, permissions, options.seconds))
    try:
        runs = reloading.reload_broker(options.timeout)
        has_loaded = reloading.has_loaded(name, grant_files.file_of(name), options.timeout) if runs else None
        if has_loaded is False:
            raise CommandFailed(
                f"the broker does not read {grant_files.DIRECTORY}, where grants are kept: if it was started with --config, write "
                "a rule with `until` into its file"
            )
    except BaseException:
        # The broker may have loaded the grant all the same.  The first error is the one to report.
        with contextlib.suppress(NsbrokerError, OSError):
            grant_files.remove_grant(name)
            reloading.reload_broker(options.timeout)
        raise
    later = "" if has_loaded else "; whether the broker has loaded it could not be found out"
    if not runs:
        later = "; the broker does not run now, and loads it when it starts"
    print(terminal.printable(f"{name}: granted to {options.who} for {options.seconds:g} seconds{later}"))
    return 0


def duration(text: str) -> float:
    """Return a duration on the command line in seconds.  Raises ArgumentTypeError."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(map("".join, parts)) != text or not 0 < seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a duration: write 90s, 30m, 2h, 1d or 1h30m")
    return seconds
