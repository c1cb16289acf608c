"""Describe namespaces for people: the id, the processes in a namespace, and what uses it.

Anybody can choose commands and paths.  So all characters in them that could move the cursor or end a line are shown as
escapes.
"""

import functools
import pwd

from nsbroker.cli.terminal import printable
from nsbroker.model.description import LeadingProcess, NamespaceDescription, Reference, ReferenceKind
from nsbroker.model.identity import format_id

NOTHING = "-"
_NAMES_SHOWN = 2


def namespace_id(one: NamespaceDescription) -> str:
    """Return its id as `ls -l /proc/self/ns` prints it, such as net:[4026531840]; commands accept that as a target."""
    return format_id(one.type, one.inode)


@functools.cache
def user_name(uid: int | None) -> str:
    """Return the name of the user on this host, or the number when there is no name.  None: the process has just ended."""
    if uid is None:
        return NOTHING
    try:
        return printable(pwd.getpwuid(uid).pw_name)
    except (KeyError, OverflowError):
        return str(uid)


def command(process: LeadingProcess | None) -> str:
    """Return the command line of the process, or NOTHING."""
    return (process and printable(process.command)) or NOTHING


def leader(one: NamespaceDescription) -> str:
    """Return the process with the lowest pid and its command, such as `4711 sleep 600`; empty when there is no process."""
    return "" if one.process is None else f"{one.process.pid} {command(one.process)}"


def process_count(one: NamespaceDescription) -> str:
    """Return how many processes are in it, in words."""
    return {0: "no process", 1: "1 process"}.get(one.processes, f"{one.processes} processes")


def reference(one: Reference) -> str:
    """Describe one reference: `fd 7 of 4711`, `/run/netns/blue`, or `name:lab` for a namespace that the broker holds."""
    of = "" if one.pid is None else f" of {one.pid}"
    if one.path is not None:
        return printable(one.path) + of
    kind = "fd" if one.kind is ReferenceKind.DESCRIPTOR else one.kind
    return kind + ("" if one.number is None else f" {one.number}") + of


def used_by(one: NamespaceDescription) -> str:
    """Return the containers that use it, or else the units, or else, when no process is in it, the references to it.

    At most two are named; `+3` counts three more.  Empty when processes use it that are in no container and no unit.
    """
    names = [printable(name) for name in one.containers or one.units or ()]
    if not names and not one.processes:
        # References with a path tell people the most, child namespaces the least.
        ordered = sorted(one.references or (), key=lambda each: (each.kind is ReferenceKind.NAMESPACE, each.path is None))
        names = [reference(each) for each in ordered]
    more = [f"+{len(names) - _NAMES_SHOWN}"] if len(names) > _NAMES_SHOWN else []
    return " ".join([", ".join(names[:_NAMES_SHOWN]), *more])
