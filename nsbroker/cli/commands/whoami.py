"""`nsbroker whoami`."""

import argparse
import grp
import pwd

from nsbroker.cli import connection
from nsbroker.cli.output import print_json, print_table
from nsbroker.linux.features import features

HELP = "Show who you are to the broker: your user, groups, process and unit."
EXAMPLE = "nsbroker whoami"

configure = connection.add_options


def run(options: argparse.Namespace) -> int:
    """Print the table or the JSON."""
    with connection.connect(options) as broker:
        peer = broker.who_am_i()
    if options.json:
        print_json(peer)
        return 0
    groups = " ".join(f"{gid} ({_group_name(gid)})" for gid in peer.groups)
    user = f"anonymous: {_explain_anonymous(peer.uid)}" if peer.anonymous else _user_name(peer.uid)
    container = peer.container or (f"unknown: {peer.container_unknown}" if peer.container_unknown else "-")
    rows: list[list[object]] = [
        ["user", f"{peer.uid} ({user})"],
        ["groups", groups],
        ["process", peer.pid],
        ["unit", peer.unit or "-"],
        ["container", container],
    ]
    print_table(["WHAT", "VALUE"], rows)
    return 0


def _explain_anonymous(uid: int) -> str:
    """Return why the broker does not trust the uid of an anonymous caller."""
    if uid == 0 and not features().peer_pidfd:
        return "before Linux 6.5 the broker cannot tell root from the root of a container"
    return "the broker cannot tell who has this uid"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return "?"


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OverflowError):
        return "?"
