"""Find the relations of namespaces: their parents and owners, and the unique ids that the kernel gives them.

The kernel is asked through a descriptor of each namespace.  A namespace that is found this way may have nothing else that
keeps it alive.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from nsbroker.errors import InvalidType, NsbrokerError
from nsbroker.linux import nsfs
from nsbroker.linux.descriptors import close_all
from nsbroker.linux.features import features
from nsbroker.model.identity import NamespaceType, format_id
from nsbroker.namespace.search import open_place

_WITH_PARENTS = ("user", "pid")
_PROCESS = re.compile("(?:/proc/|socket:)([0-9]+)/")
_PROCESS_LINK = re.compile("/proc/[0-9]+/(task/[0-9]+/)?ns/[a-z_]+")


class Relations(NamedTuple):
    """The relations of one namespace.  What cannot be seen from here is None."""

    id: int | None
    owner: str | None
    owner_uid: int | None
    parent: str | None


_UNKNOWN = Relations(None, None, None, None)


def relations_of(
    places: Mapping[str, str],
    others: Callable[[str], Iterable[str]],
    may_look: Callable[[int], bool],
    known: Mapping[str, Relations],
) -> dict[str, Relations]:
    """Return the relations of the namespaces at these places (by their ids), and of the namespaces that are found through them.

    `others`: returns more places of a namespace, in case it is no longer at the first.  `may_look`: whether a process may be
    looked at.  `known`: relations that need not be looked up again; they are returned even when they have no place.
    """
    found = {ns_id: relations for ns_id, relations in known.items() if relations is not _UNKNOWN}
    for ns_id, place in places.items():
        if ns_id not in found and not (_may_open(place, may_look) and _look_up_place(ns_id, place, found)):
            found[ns_id] = _UNKNOWN
            for other in others(ns_id):
                if _may_open(other, may_look) and _look_up_place(ns_id, other, found):
                    break
    return found


def _may_open(place: str, may_look: Callable[[int], bool]) -> bool:
    pid = _PROCESS.match(place)
    return pid is None or may_look(int(pid[1]))


def _look_up_place(ns_id: str, place: str, found: dict[str, Relations]) -> bool:
    """Look up the namespace at a place.  Returns False if it is not there or cannot be opened."""
    try:
        fd = _open(place)
    except (OSError, NsbrokerError, ValueError):
        return False
    try:
        is_there = _ns_id(fd) == ns_id
    except (OSError, InvalidType):
        is_there = False
    if not is_there:
        # Something else is at this place by now.
        os.close(fd)
        return False
    _look_up(ns_id, fd, found)
    return True


def _look_up(ns_id: str, fd: int, found: dict[str, Relations]) -> None:
    """Look up the namespace of `fd` (taken), and its owners and parents."""
    waiting = [(ns_id, fd)]
    try:
        _look_up_all(waiting, found)
    finally:
        close_all(fd for _, fd in waiting)


def _look_up_all(waiting: list[tuple[str, int]], found: dict[str, Relations]) -> None:
    """Look up the namespaces in `waiting` until it is empty, and append the owners and parents that are found.

    Each entry is taken from the end of the list, and its fd is closed.
    """
    while waiting:
        ns_id, fd = waiting.pop()
        try:
            if found.get(ns_id, _UNKNOWN) is not _UNKNOWN:
                continue
            ns_type = ns_id.partition(":")[0]
            owner = _find_relative(fd, nsfs.owning_user_namespace, waiting)
            parent = _find_relative(fd, nsfs.parent, waiting) if ns_type in _WITH_PARENTS else None
            unique = nsfs.unique_id(fd) if features().namespace_id else None
            found[ns_id] = Relations(unique, owner, _owner_uid(fd, ns_type), parent)
        finally:
            os.close(fd)


def _open(place: str) -> int:
    if _PROCESS_LINK.fullmatch(place):
        # Nothing but a namespace can be at such a path.
        return os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    return open_place(place).detach()


def _ns_id(fd: int) -> str:
    # Not from the link of the fd: when it was opened through a bind mount, the link is the path of the mount.
    return format_id(NamespaceType.of_flag(nsfs.namespace_type(fd)), os.fstat(fd).st_ino)


def _find_relative(fd: int, ask: Callable[[int], int], waiting: list[tuple[str, int]]) -> str | None:
    try:
        relative = ask(fd)
    except OSError:
        return None
    # It is in the list from here on, so it is closed whatever happens.
    waiting.append(("", relative))
    ns_id = _ns_id(relative)
    waiting[-1] = (ns_id, relative)
    return ns_id


def _owner_uid(fd: int, ns_type: str) -> int | None:
    try:
        if ns_type == "user":
            return nsfs.owner_uid(fd)
        user = nsfs.owning_user_namespace(fd)
        try:
            return nsfs.owner_uid(user)
        finally:
            os.close(user)
    except OSError:
        return None
