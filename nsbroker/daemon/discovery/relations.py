"""How namespaces are related: parents, owners, and the ids that the kernel gives them.

Asked of a descriptor of each; what is found so may be a namespace that nothing else keeps alive.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from nsbroker.errors import InvalidType, NsbrokerError
from nsbroker.linux import nsfs
from nsbroker.linux.ancillary import close_all
from nsbroker.linux.features import features
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace.search import open_place

_WITH_PARENTS = ("user", "pid")
_PROCESS = re.compile("(?:/proc/|socket:)([0-9]+)/")
_OWN_LINK = re.compile("/proc/[0-9]+/(task/[0-9]+/)?ns/[a-z_]+")


class Relations(NamedTuple):
    """Of one namespace; None is what cannot be seen from here."""

    id: int | None
    owner: str | None
    owner_uid: int | None
    parent: str | None


_NOTHING = Relations(None, None, None, None)


def relations_of(
    places: Mapping[str, str],
    others: Callable[[str], Iterable[str]],
    may_look: Callable[[int], bool],
    known: Mapping[str, Relations],
) -> dict[str, Relations]:
    """The relations of the namespaces at these places (links and paths), and of those that are found by them.

    `others`: more places of one, for when nothing is at the first any more.  `may_look`: whether a process may be looked at.
    `known`: relations that need not be asked for; those with which nothing is at its place are in what is returned, too.
    """
    found = {link: relations for link, relations in known.items() if relations is not _NOTHING}
    for link, place in places.items():
        if link not in found and not (_may_open(place, may_look) and _ask_at(link, place, found)):
            found[link] = _NOTHING
            for other in others(link):
                if _may_open(other, may_look) and _ask_at(link, other, found):
                    break
    return found


def _may_open(place: str, may_look: Callable[[int], bool]) -> bool:
    pid = _PROCESS.match(place)
    return pid is None or may_look(int(pid[1]))


def _ask_at(link: str, place: str, found: dict[str, Relations]) -> bool:
    """Whether it was there, and could be asked."""
    try:
        fd = _open(place)
    except (OSError, NsbrokerError, ValueError):
        return False
    try:
        is_there = _link(fd) == link
    except (OSError, InvalidType):
        is_there = False
    if not is_there:
        # What was there is somewhere else by now.
        os.close(fd)
        return False
    _ask(link, fd, found)
    return True


def _ask(link: str, fd: int, found: dict[str, Relations]) -> None:
    """Ask of `fd` (taken), and of what it leads to."""
    waiting = [(link, fd)]
    try:
        _ask_all(waiting, found)
    finally:
        close_all(fd for _, fd in waiting)


def _ask_all(waiting: list[tuple[str, int]], found: dict[str, Relations]) -> None:
    """Ask of the last, with what it leads to after it, until none is left.  Closes each that it takes from the list."""
    while waiting:
        link, fd = waiting.pop()
        try:
            if found.get(link, _NOTHING) is not _NOTHING:
                continue
            kind = link.partition(":")[0]
            owner = _related(fd, nsfs.owning_user_namespace, waiting)
            parent = _related(fd, nsfs.parent, waiting) if kind in _WITH_PARENTS else None
            unique = nsfs.unique_id(fd) if features().namespace_id else None
            found[link] = Relations(unique, owner, _owner_uid(fd, kind), parent)
        finally:
            os.close(fd)


def _open(place: str) -> int:
    if _OWN_LINK.fullmatch(place):
        # Nothing else can be there.
        return os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    return open_place(place).detach()


def _link(fd: int) -> str:
    # Not the descriptor's own link: of one that was opened through a bind mount, that is the mount's path.
    return f"{NamespaceType.of_flag(nsfs.namespace_type(fd))}:[{os.fstat(fd).st_ino}]"


def _related(fd: int, ask: Callable[[int], int], waiting: list[tuple[str, int]]) -> str | None:
    try:
        relative = ask(fd)
    except OSError:
        return None
    # From here on it is closed whatever happens.
    waiting.append(("", relative))
    link = _link(relative)
    waiting[-1] = (link, relative)
    return link


def _owner_uid(fd: int, kind: str) -> int | None:
    try:
        if kind == "user":
            return nsfs.owner_uid(fd)
        user = nsfs.owning_user_namespace(fd)
        try:
            return nsfs.owner_uid(user)
        finally:
            os.close(user)
    except OSError:
        return None
