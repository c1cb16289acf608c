"""Finding a namespace by its id alone, wherever something keeps it alive: bind mounts, processes, threads, open files,
sockets, namespaces below it.

A place is a path at which a namespace was seen, or `socket:PID/NUMBER` for a socket that lives in it.  A namespace is only
ever what an opened descriptor shows it to be: links, mount tables and places merely say where to look.
"""

import contextlib
import os
from collections.abc import Iterator, MutableMapping

from nsbroker.errors import InvalidType, NoSuchTarget, NsbrokerError, PermissionDenied
from nsbroker.identity import NamespaceId, NamespaceType
from nsbroker.linux import process_table, socket_owner
from nsbroker.linux.process import real_user
from nsbroker.namespace import Namespace

_WITH_PARENTS = (NamespaceType.USER, NamespaceType.PID)


def find(wanted: NamespaceId, hints: MutableMapping[str, str] | None = None) -> Namespace:
    """A handle of the namespace `wanted`.  Reads much of /proc: milliseconds, more on a host of thousands of processes.

    `hints` are places where namespaces were seen, by their ids: the one for `wanted` is tried first, and where it was found
    is noted.  Raises NoSuchTarget when nothing that the caller may look at keeps it alive.
    """
    text = str(wanted)
    hint = None if hints is None else hints.get(text)
    if hint is not None and (handle := _matching(hint, wanted)) is not None:
        return handle
    for places in (_mounts, _processes, _threads, _descriptors, _sockets):
        for place in places(wanted):
            if (handle := _matching(place, wanted)) is not None:
                if hints is not None:
                    hints[text] = place
                return handle
    handle = _above(wanted)
    if handle is None:
        raise NoSuchTarget(text, "no process, thread, open file, socket or mount that can be seen from here keeps it alive")
    return handle


def open_place(place: str) -> Namespace:
    """What is at a place now.  Raises OSError, NsbrokerError."""
    if not place.startswith("socket:"):
        return Namespace.from_path(place)
    pid, _, number = place.removeprefix("socket:").partition("/")
    return Namespace.from_fd(socket_owner.open_network(int(pid), int(number)), owned=True)


def socket_place(pid: int, number: int) -> str:
    """The place that a socket is."""
    return f"socket:{pid}/{number}"


def _matching(place: str, wanted: NamespaceId) -> Namespace | None:
    try:
        handle = open_place(place)
    except (OSError, NsbrokerError, ValueError):
        return None
    if handle.id.matches(wanted):
        return handle
    handle.close()
    return None


def _linked(paths: Iterator[str], wanted: NamespaceId) -> Iterator[str]:
    text = str(wanted)
    for path in paths:
        with contextlib.suppress(OSError):
            if os.readlink(path) == text:
                yield path


def _processes(wanted: NamespaceId) -> Iterator[str]:
    return _linked((f"/proc/{pid}/ns/{wanted.type}" for pid in process_table.process_ids()), wanted)


def _threads(wanted: NamespaceId) -> Iterator[str]:
    kinds = (wanted.type, f"{wanted.type}_for_children") if wanted.type in ("pid", "time") else (wanted.type,)
    tasks = (f"/proc/{pid}/task/{tid}" for pid in process_table.process_ids() for tid in (pid, *process_table.threads(pid)))
    return _linked((f"{task}/ns/{kind}" for task in tasks for kind in kinds), wanted)


def _descriptors(wanted: NamespaceId) -> Iterator[str]:
    text = str(wanted)
    for pid in process_table.process_ids():
        for number, link in process_table.descriptors(pid, process_table.DETACHED):
            # What a link does not tell has to be looked at, which can wait for a file system: at root's files alone.
            if link == text or (link in process_table.DETACHED and real_user(pid) == 0):
                yield f"/proc/{pid}/fd/{number}"


def _sockets(wanted: NamespaceId) -> Iterator[str]:
    if wanted.type is not NamespaceType.NET:
        return
    for pid in process_table.process_ids():
        numbers = [number for number, link in process_table.descriptors(pid) if link.startswith("socket:")]
        for number, inode in socket_owner.networks(pid, numbers):
            if inode == wanted.inode:
                yield socket_place(pid, number)


def _mounts(wanted: NamespaceId) -> Iterator[str]:
    text = str(wanted)
    seen: set[str | None] = set()
    for pid in ("self", *map(str, process_table.process_ids())):
        space = process_table.link(f"/proc/{pid}", "mnt")
        if space not in seen:
            seen.add(space)
            bound = process_table.bound_namespaces(f"/proc/{pid}")
            yield from (f"/proc/{pid}/root{path}" for link, path in bound if link == text)


def _above(wanted: NamespaceId) -> Namespace | None:
    """A pid or user namespace that nothing is in, from one below it."""
    if wanted.type not in _WITH_PARENTS:
        return None
    seen: set[str | None] = set()
    for pid in process_table.process_ids():
        link = process_table.link(f"/proc/{pid}", wanted.type)
        if link in seen:
            continue
        seen.add(link)
        with contextlib.suppress(OSError, NsbrokerError):
            if (handle := _ascend(Namespace.from_path(f"/proc/{pid}/ns/{wanted.type}"), wanted)) is not None:
                return handle
    return None


def _ascend(space: Namespace, wanted: NamespaceId) -> Namespace | None:
    """The first above `space` (taken) that is `wanted`."""
    while not space.id.matches(wanted):
        with space:
            try:
                space = space.parent()
            except (PermissionDenied, InvalidType):
                return None
    return space
