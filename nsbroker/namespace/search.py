"""Find a namespace by its id alone, by searching everything that can keep it alive.

These are bind mounts, processes, threads, open files, sockets, and other namespaces, of which it is the parent or the owner.

A place is a path where a namespace was found, or `socket:PID/FD` for a socket in it.  Links, mount tables and places only
say where to look: which namespace it is, is always read from the opened descriptor.
"""

import contextlib
from collections.abc import Collection, Iterator, MutableMapping

from nsbroker.errors import NoSuchTarget, NsbrokerError
from nsbroker.linux import process_table, socket_owner
from nsbroker.linux.process import real_user
from nsbroker.model.identity import NamespaceId, NamespaceType, format_id
from nsbroker.namespace.handle import Namespace

# The types of the namespaces from which the key can be reached: a user namespace as the owner of any, a pid namespace as the
# parent of another.
_BELOW = {NamespaceType.USER: tuple(NamespaceType), NamespaceType.PID: (NamespaceType.PID,)}


def find_by_id(wanted: NamespaceId, locations: MutableMapping[str, str] | None = None) -> Namespace:
    """Open the namespace `wanted`; the handle is the caller's to close.

    This reads much of /proc.  It takes milliseconds, and more on a host with thousands of processes.  `locations` are places
    where namespaces were found earlier, by their ids: the place for `wanted` is tried first, and the place where it is found
    is added.  Raises NoSuchTarget if nothing that the caller may read keeps it alive.
    """
    text = str(wanted)
    place_before = None if locations is None else locations.get(text)
    if place_before is not None and (handle := _open_if_wanted(place_before, wanted)) is not None:
        return handle
    for places in _PLACES:
        for ns_id, place in places((wanted.type,)):
            if ns_id in (text, None) and (handle := _open_if_wanted(place, wanted)) is not None:
                if locations is not None:
                    locations[text] = place
                return handle
    handle = _find_relative(wanted)
    if handle is None:
        raise NoSuchTarget(text, "no process, thread, open file, socket or mount that can be seen from here keeps it alive")
    return handle


def open_place(place: str) -> Namespace:
    """Open the namespace that is at a place now; the handle is the caller's to close.  Raises OSError, NsbrokerError."""
    if not place.startswith("socket:"):
        return Namespace.from_path(place)
    pid, _, number = place.removeprefix("socket:").partition("/")
    return Namespace.from_fd(socket_owner.open_network(int(pid), int(number)), owned=True)


def socket_place(pid: int, number: int) -> str:
    """Return the place of a socket: the descriptor `number` of the process `pid`."""
    return f"socket:{pid}/{number}"


def _open_if_wanted(place: str, wanted: NamespaceId) -> Namespace | None:
    try:
        handle = open_place(place)
    except (OSError, NsbrokerError, ValueError):
        return None
    if handle.id.matches(wanted):
        return handle
    handle.close()
    return None


def _processes(ns_types: Collection[str]) -> Iterator[tuple[str | None, str]]:
    for pid in process_table.process_ids():
        for ns_type in ns_types:
            if (ns_id := process_table.link(f"/proc/{pid}", ns_type)) is not None:
                yield ns_id, f"/proc/{pid}/ns/{ns_type}"


def _threads(ns_types: Collection[str]) -> Iterator[tuple[str | None, str]]:
    names = (*ns_types, *(f"{ns_type}_for_children" for ns_type in ns_types if ns_type in ("pid", "time")))
    for pid in process_table.process_ids():
        for tid in (pid, *process_table.threads(pid)):
            for name in names:
                if (ns_id := process_table.link(f"/proc/{pid}/task/{tid}", name)) is not None:
                    yield ns_id, f"/proc/{pid}/task/{tid}/ns/{name}"


def _descriptors(ns_types: Collection[str]) -> Iterator[tuple[str | None, str]]:
    for pid in process_table.process_ids():
        for number, link in process_table.descriptors(pid, process_table.DETACHED):
            if link.partition(":")[0] in ns_types:
                yield link, f"/proc/{pid}/fd/{number}"
            elif link in process_table.DETACHED and real_user(pid) == 0:
                # This link does not show which namespace it is, so the file has to be opened.  Opening a file can block on a
                # file system, which a user may have made block, so only files of root's processes are opened.
                yield None, f"/proc/{pid}/fd/{number}"


def _sockets(ns_types: Collection[str]) -> Iterator[tuple[str | None, str]]:
    if NamespaceType.NET not in ns_types:
        return
    for pid in process_table.process_ids():
        numbers = [number for number, link in process_table.descriptors(pid) if link.startswith("socket:")]
        for number, inode in socket_owner.networks(pid, numbers):
            yield format_id("net", inode), socket_place(pid, number)


def _mounts(ns_types: Collection[str]) -> Iterator[tuple[str | None, str]]:
    seen: set[str | None] = set()
    for pid in ("self", *map(str, process_table.process_ids())):
        mount_ns = process_table.link(f"/proc/{pid}", "mnt")
        if mount_ns not in seen:
            seen.add(mount_ns)
            for ns_id, path in process_table.bound_namespaces(f"/proc/{pid}"):
                if ns_id.partition(":")[0] in ns_types:
                    yield ns_id, f"/proc/{pid}/root{path}"


_PLACES = (_mounts, _processes, _threads, _descriptors, _sockets)
"""Functions that yield the ids and places of namespaces of the given types.

The id is None if it cannot be known before the namespace is opened.
"""


def _find_relative(wanted: NamespaceId) -> Namespace | None:
    """Find a pid or user namespace that is alive only because it is the parent or the owner of others."""
    ns_types = _BELOW.get(wanted.type)
    if ns_types is None:
        return None
    seen: set[str] = set()
    for places in _PLACES:
        for ns_id, place in places(ns_types):
            if ns_id in seen:
                continue
            with contextlib.suppress(OSError, NsbrokerError, ValueError):
                if (handle := _ascend(open_place(place), wanted, seen)) is not None:
                    return handle
    return None


def _ascend(ns: Namespace, wanted: NamespaceId, seen: set[str]) -> Namespace | None:
    """Find `wanted` among the parents and owners of `ns` (taken), and their parents and owners.

    `seen` has the ids of namespaces that need no second look; this adds to it.
    """
    waiting = [ns]
    while waiting:
        with waiting.pop() as lower:
            text = str(lower)
            if text in seen:
                continue
            seen.add(text)
            for open_relative in (lower.parent, lower.owner) if wanted.type is NamespaceType.USER else (lower.parent,):
                with contextlib.suppress(OSError, NsbrokerError):
                    above = open_relative()
                    if above.id.matches(wanted):
                        for other in waiting:
                            other.close()
                        return above
                    waiting.append(above)
    return None
