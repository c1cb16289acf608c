"""Finding a namespace by its id alone, wherever something keeps it alive: bind mounts, processes, threads, open files,
sockets, namespaces below it.

A place is a path at which a namespace was seen, or `socket:PID/NUMBER` for a socket that lives in it.  A namespace is only
ever what an opened descriptor shows it to be: links, mount tables and places merely say where to look.
"""

import contextlib
from collections.abc import Collection, Iterator, MutableMapping

from nsbroker.errors import NoSuchTarget, NsbrokerError
from nsbroker.linux import process_table, socket_owner
from nsbroker.linux.process import real_user
from nsbroker.model.identity import NamespaceId, NamespaceType
from nsbroker.namespace.handle import Namespace

# From which types of namespace one of these can be reached: as the owner of any, or as the parent of its own type.
_LEADING = {NamespaceType.USER: tuple(NamespaceType), NamespaceType.PID: (NamespaceType.PID,)}


def find(wanted: NamespaceId, hints: MutableMapping[str, str] | None = None) -> Namespace:
    """A handle of the namespace `wanted`.  Reads much of /proc: milliseconds, more on a host of thousands of processes.

    `hints` are places where namespaces were seen, by their ids: the one for `wanted` is tried first, and where it was found
    is noted.  Raises NoSuchTarget when nothing that the caller may look at keeps it alive.
    """
    text = str(wanted)
    hint = None if hints is None else hints.get(text)
    if hint is not None and (handle := _matching(hint, wanted)) is not None:
        return handle
    for places in _PLACES:
        for link, place in places((wanted.type,)):
            if link in (text, None) and (handle := _matching(place, wanted)) is not None:
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


def _processes(kinds: Collection[str]) -> Iterator[tuple[str | None, str]]:
    for pid in process_table.process_ids():
        for kind in kinds:
            if (link := process_table.link(f"/proc/{pid}", kind)) is not None:
                yield link, f"/proc/{pid}/ns/{kind}"


def _threads(kinds: Collection[str]) -> Iterator[tuple[str | None, str]]:
    names = (*kinds, *(f"{kind}_for_children" for kind in kinds if kind in ("pid", "time")))
    for pid in process_table.process_ids():
        for tid in (pid, *process_table.threads(pid)):
            for name in names:
                if (link := process_table.link(f"/proc/{pid}/task/{tid}", name)) is not None:
                    yield link, f"/proc/{pid}/task/{tid}/ns/{name}"


def _descriptors(kinds: Collection[str]) -> Iterator[tuple[str | None, str]]:
    for pid in process_table.process_ids():
        for number, link in process_table.descriptors(pid, process_table.DETACHED):
            if link.partition(":")[0] in kinds:
                yield link, f"/proc/{pid}/fd/{number}"
            elif link in process_table.DETACHED and real_user(pid) == 0:
                # What a link does not tell has to be looked at, which can wait for a file system: at root's files alone.
                yield None, f"/proc/{pid}/fd/{number}"


def _sockets(kinds: Collection[str]) -> Iterator[tuple[str | None, str]]:
    if NamespaceType.NET not in kinds:
        return
    for pid in process_table.process_ids():
        numbers = [number for number, link in process_table.descriptors(pid) if link.startswith("socket:")]
        for number, inode in socket_owner.networks(pid, numbers):
            yield f"net:[{inode}]", socket_place(pid, number)


def _mounts(kinds: Collection[str]) -> Iterator[tuple[str | None, str]]:
    seen: set[str | None] = set()
    for pid in ("self", *map(str, process_table.process_ids())):
        space = process_table.link(f"/proc/{pid}", "mnt")
        if space not in seen:
            seen.add(space)
            for link, path in process_table.bound_namespaces(f"/proc/{pid}"):
                if link.partition(":")[0] in kinds:
                    yield link, f"/proc/{pid}/root{path}"


_PLACES = (_mounts, _processes, _threads, _descriptors, _sockets)
"""Each yields namespaces of the given types, None for one whose id cannot be told before it is opened, and their places."""


def _above(wanted: NamespaceId) -> Namespace | None:
    """A pid or user namespace that is nothing but the parent or the owner of others."""
    kinds = _LEADING.get(wanted.type)
    if kinds is None:
        return None
    seen: set[str] = set()
    for places in _PLACES:
        for link, place in places(kinds):
            if link in seen:
                continue
            with contextlib.suppress(OSError, NsbrokerError, ValueError):
                if (handle := _ascend(open_place(place), wanted, seen)) is not None:
                    return handle
    return None


def _ascend(space: Namespace, wanted: NamespaceId, seen: set[str]) -> Namespace | None:
    """The first that is `wanted` of `space` (taken) and what is above it.  What is in `seen` was looked at before."""
    waiting = [space]
    while waiting:
        with waiting.pop() as one:
            text = str(one)
            if text in seen:
                continue
            seen.add(text)
            for ask in (one.parent, one.owner) if wanted.type is NamespaceType.USER else (one.parent,):
                with contextlib.suppress(OSError, NsbrokerError):
                    above = ask()
                    if above.id.matches(wanted):
                        for other in waiting:
                            other.close()
                        return above
                    waiting.append(above)
    return None
