"""`nsbroker whoami`."""

import argparse
import grp
import pwd

from nsbroker.cli import connection
from nsbroker.cli.output import add_json, print_json, print_table
from nsbroker.linux.features import features

HELP = "Show who the broker takes you for."


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    connection.add_timeout(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Ask, print."""
    with connection.connect(options) as broker:
        peer = broker.who_am_i()
    if options.json:
        print_json(peer)
        return 0
    groups = " ".join(f"{gid} ({_group(gid)})" for gid in peer.groups)
    user = f"nobody in particular: {_reason(peer.uid)}" if peer.anonymous else _user(peer.uid)
    print_table(
        ["WHAT", "VALUE"], [["user", f"{peer.uid} ({user})"], ["groups", groups], ["process", peer.pid], ["unit", peer.unit or "-"]]
    )
    return 0


def _reason(uid: int) -> str:
    """Why its uid proves nothing."""
    if uid == 0 and not features().peer_pidfd:
        return "before Linux 6.5 root cannot be told from the root of a container"
    return "this uid proves nothing to the broker"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return "?"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OverflowError):
        return "?"
