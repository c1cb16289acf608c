"""How people are told of a namespace: what it is called, who is in it, what keeps it alive.

Commands and paths are whatever somebody made them: what could move a cursor or break a line is shown as an escape.
"""

import functools
import pwd

from nsbroker.cli.terminal import printable
from nsbroker.model.description import Holder, HolderKind, LeadingProcess, NamespaceDescription

NOTHING = "-"
_NAMED = 2


def namespace_id(one: NamespaceDescription) -> str:
    """As `ls -l /proc/self/ns` prints it, and as commands take it for a target."""
    return f"{one.type}:[{one.inode}]"


@functools.cache
def user_name(uid: int | None) -> str:
    """The user's name here; the number of one who has none.  A process that has just ended is nobody's (None)."""
    if uid is None:
        return NOTHING
    try:
        return printable(pwd.getpwuid(uid).pw_name)
    except (KeyError, OverflowError):
        return str(uid)


def command(process: LeadingProcess | None) -> str:
    """What the process runs."""
    return (process and printable(process.command)) or NOTHING


def leader(one: NamespaceDescription) -> str:
    """The process with the lowest number, `4711 sleep 600`; empty when there is none."""
    return "" if one.process is None else f"{one.process.pid} {command(one.process)}"


def process_count(one: NamespaceDescription) -> str:
    """How many processes are in it."""
    return {0: "no process", 1: "1 process"}.get(one.processes, f"{one.processes} processes")


def holder(one: Holder) -> str:
    """One thing that keeps a namespace alive: `fd 7 of 4711`, `/run/netns/blue`, what the broker itself holds as `name:lab`."""
    of = "" if one.pid is None else f" of {one.pid}"
    if one.path is not None:
        return printable(one.path) + of
    kind = "fd" if one.kind is HolderKind.DESCRIPTOR else one.kind
    return kind + ("" if one.number is None else f" {one.number}") + of


def keepers(one: NamespaceDescription) -> str:
    """Whose it is: containers, or units; with no process in it, what else keeps it alive.  The first two, and how many more.

    Empty when it is just there because processes are in it.
    """
    names = [printable(name) for name in one.containers or one.units or ()]
    if not names and not one.processes:
        # A name says more than the number of a process; relatives say least.
        ordered = sorted(one.holders or (), key=lambda each: (each.kind is HolderKind.NAMESPACE, each.path is None))
        names = [holder(each) for each in ordered]
    more = [f"+{len(names) - _NAMED}"] if len(names) > _NAMED else []
    return " ".join([", ".join(names[:_NAMED]), *more])
