"""One pass over all that keeps namespaces alive: processes, threads, open files, sockets, bind mounts, other namespaces.

The pass takes its time, and the host goes on meanwhile: what ended is left out, what moved is seen where it was when it
was looked at.  A process's own namespaces are read one after the other, and its number and start time tell it apart.

A quick pass looks only at what is not as it was in an earlier one (`Earlier`).
"""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping

from nsbroker.daemon.discovery.earlier_scan import Earlier, seconds_since_boot
from nsbroker.daemon.discovery.relations import relations_of
from nsbroker.daemon.discovery.scan_budget import Shares
from nsbroker.daemon.discovery.scan_result import TYPES, Census, Member, Sighting
from nsbroker.daemon.discovery.stall_guard import Progress
from nsbroker.errors import InvalidType
from nsbroker.linux import file_handle, nsfs, process_table, socket_owner
from nsbroker.linux.process import real_user
from nsbroker.linux.process_table import Facts
from nsbroker.model.description import Holder, HolderKind
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace.search import socket_place

# Threads of a process can differ in these only: the others take a process of one thread (setns(2), unshare(2)).
_THREAD_TYPES = tuple(kind for kind in TYPES if kind in ("cgroup", "ipc", "mnt", "net", "uts"))
_CHILDREN = ("pid_for_children", "time_for_children")
_PREFIXES = frozenset(TYPES)
_ROUNDS = 4
_MORE_PLACES = 16
# What a socket costs, and a piece of a mount table, when a link costs one.
_SOCKET_LOOKS = 6
_TABLE_LOOKS = 256
_DETACHED = {"/": ""}


def take(progress: Progress, known: Census | None = None) -> Census:
    """Make the pass; with `known`, which is an earlier one, a quick pass.  For a thread that can be spared.

    `progress` tells how far it is.  Raises Stalled when it was given up.
    """
    census = Census(own_mounts=process_table.link("/proc/self", "mnt") or "", at=seconds_since_boot())
    earlier = Earlier(known or Census())
    census.members = _members(progress, earlier)
    shares = Shares()
    bound = list(_bound(census, shares, progress, earlier))
    # What others bind in mount namespaces of their own says nothing of files that are opened here.
    paths = {"/": "", **{sighting.holder.path or "": sighting.link for sighting in bound if sighting.holder.pid is None}}
    mounts = TYPES.index(NamespaceType.MNT)
    for member in census.members:
        if earlier.has(member):
            census.sightings += earlier.sightings(member)
        elif not member.facts.is_kernels and progress.may_look(member.facts.pid):
            here = member.links[mounts] == census.own_mounts
            census.sightings += _held_by(member, paths if here else _DETACHED, shares)
    census.sightings += bound
    census.sightings += _bound_by_threads(census, bound, shares)
    census.places = _places(census)
    census.relations = relations_of(census.places, lambda link: _more_places(census, link), progress.may_look, earlier.relations())
    for link, relations in census.relations.items():
        census.sightings += [
            Sighting(relative, Holder(HolderKind.NAMESPACE, path=link), None)
            for relative in {relations.owner, relations.parent} - {None, link}
            if relative is not None
        ]
    return census


def _members(progress: Progress, earlier: Earlier) -> list[Member]:
    """All processes.  Those that were born meanwhile are looked at, too: one of them may be all that is left of where its
    parent was.
    """
    found: dict[int, Member] = {}
    # Most processes are where many others are: one copy of that does for all.
    same: dict[tuple[str, ...], tuple[str, ...]] = {}
    seen: set[int] = set()
    for _ in range(_ROUNDS):
        new = [pid for pid in process_table.process_ids() if pid not in seen]
        if not new:
            break
        seen.update(new)
        for pid in new:
            member = (earlier.take_over(pid) or _look_at(pid, same)) if progress.may_look(pid) else None
            if member is not None:
                found[pid] = member
    return [found[pid] for pid in sorted(found)]


def _look_at(pid: int, same: dict[tuple[str, ...], tuple[str, ...]]) -> Member | None:
    facts = process_table.read_facts(pid)
    links = process_table.links(f"/proc/{pid}", TYPES)
    return None if facts is None or links is None else Member(facts, same.setdefault(links, links))


def _held_by(member: Member, paths: Mapping[str, str], shares: Shares) -> Iterator[Sighting]:
    own = frozenset(member.links)
    pid = member.facts.pid
    for found in (_by_children(pid), _by_threads(member.facts, shares), _by_files(pid, paths, shares)):
        for link, holder in found:
            if link not in own or holder.kind is HolderKind.DESCRIPTOR:
                yield Sighting(link, holder, member)


def _by_children(pid: int) -> Iterator[tuple[str, Holder]]:
    for name in _CHILDREN:
        link = process_table.link(f"/proc/{pid}", name)
        if link is not None:
            yield link, Holder(HolderKind.CHILDREN, pid)


def _by_threads(facts: Facts, shares: Shares) -> Iterator[tuple[str, Holder]]:
    if facts.threads > 1:
        for tid in shares.limited(facts.pid, len(_THREAD_TYPES), process_table.threads(facts.pid)):
            for link in process_table.links(f"/proc/{facts.pid}/task/{tid}", _THREAD_TYPES) or ():
                yield link, Holder(HolderKind.THREAD, facts.pid, tid)


def _by_files(pid: int, paths: Mapping[str, str], shares: Shares) -> Iterator[tuple[str, Holder]]:
    """`paths`: what files that are opened through a bind mount show as their link; "/" when the mount is gone."""
    sockets = []
    for number, text in process_table.descriptors(pid, paths, lambda names: shares.limited(pid, 1, names)):
        kind = text.partition(":")[0]
        if kind == "socket":
            sockets.append(number)
            continue
        link = text if kind in _PREFIXES else paths.get(text) or _link_at(pid, number)
        if link is not None:
            yield link, Holder(HolderKind.DESCRIPTOR, pid, number)
    for number, inode in socket_owner.networks(pid, shares.limited(pid, _SOCKET_LOOKS, sockets)):
        yield f"net:[{inode}]", Holder(HolderKind.SOCKET, pid, number)


def _link_at(pid: int, number: int) -> str | None:
    """The namespace that an open file of root's is whose mount has gone; None for anything else."""
    if real_user(pid) != 0:
        # Even to look at it without opening it can wait for a file system.
        return None
    try:
        found = os.open(f"/proc/{pid}/fd/{number}", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        space = _identify(found)
        return None if space is None else f"{NamespaceType.of_flag(space[0])}:[{space[1]}]"
    except (OSError, InvalidType):
        return None
    finally:
        os.close(found)


def _identify(found: int) -> tuple[int, int] | None:
    """The CLONE_NEW* flag and the inode of the namespace that `found` (borrowed, O_PATH) is; None when it is something else."""
    try:
        return file_handle.namespace_at(found)
    except OSError as error:
        # Before Linux 6.18 namespaces have no handles, and other file systems without any are asked in vain.
        if error.errno != errno.EOPNOTSUPP:
            raise
    return nsfs.identify(found)


def _bound(census: Census, shares: Shares, progress: Progress, earlier: Earlier) -> Iterator[Sighting]:
    """Namespaces that are bound to files, in the mount namespace of every process; the broker's own first."""
    mounts = TYPES.index(NamespaceType.MNT)
    views: dict[str, tuple[str, Member | None]] = {census.own_mounts: ("/proc/self", None)}
    for member in census.members:
        views.setdefault(member.links[mounts], (f"/proc/{member.facts.pid}", member))
    seen: set[tuple[str, str]] = set()
    known = earlier.mounts()
    for space, (directory, viewer) in views.items():
        if viewer is not None and space in known:
            yield from known[space]
            seen.update((sighting.link, sighting.holder.path or "") for sighting in known[space])
            continue
        pid = viewer.facts.pid if viewer else os.getpid()
        if not progress.may_look(pid):
            continue
        table = process_table.bound_namespaces(directory, shares.drawing(pid, _TABLE_LOOKS))
        for link, path in shares.limited(pid, 1, table):
            # Most mounts of containers are copies of the host's.
            if (link, path) not in seen:
                seen.add((link, path))
                yield Sighting(link, Holder(HolderKind.MOUNT, viewer and viewer.facts.pid, path=path), viewer)


def _bound_by_threads(census: Census, bound: Iterable[Sighting], shares: Shares) -> Iterator[Sighting]:
    """The same, in mount namespaces in which there are threads alone."""
    seen = {(sighting.link, sighting.holder.path) for sighting in bound}
    for link, holder, member in list(census.sightings):
        if holder.kind is HolderKind.THREAD and link.startswith("mnt:"):
            go_on = shares.drawing(holder.pid or 0, _TABLE_LOOKS)
            for found, path in process_table.bound_namespaces(f"/proc/{holder.pid}/task/{holder.number}", go_on):
                if (found, path) not in seen:
                    seen.add((found, path))
                    yield Sighting(found, Holder(HolderKind.MOUNT, holder.pid, path=path), member)


def _places(census: Census) -> dict[str, str]:
    """A path for each namespace by which it can be opened, where there is one."""
    places: dict[str, str] = {}
    for link, holder, _ in census.sightings:
        match holder.kind:
            case HolderKind.THREAD:
                places[link] = f"/proc/{holder.pid}/task/{holder.number}/ns/{link.partition(':')[0]}"
            case HolderKind.CHILDREN:
                places[link] = f"/proc/{holder.pid}/ns/{link.partition(':')[0]}_for_children"
            case HolderKind.DESCRIPTOR:
                places[link] = f"/proc/{holder.pid}/fd/{holder.number}"
            case HolderKind.SOCKET:
                places[link] = socket_place(holder.pid or 0, holder.number or 0)
            case HolderKind.MOUNT if holder.pid is None:
                places[link] = holder.path or ""
            case HolderKind.MOUNT if real_user(holder.pid or 0) == 0:
                # On the way to a file of anybody else's there may be a file system that never answers.
                places[link] = f"/proc/{holder.pid}/root{holder.path}"
    for one in reversed(census.members):
        base = f"/proc/{one.facts.pid}/ns/"
        for kind, link in zip(TYPES, one.links, strict=True):
            places[link] = base + kind
    return places


def _more_places(census: Census, link: str) -> Iterator[str]:
    """Other places of a namespace: of the last processes in it, which are the ones most likely still there."""
    kind = link.partition(":")[0]
    place = TYPES.index(NamespaceType(kind))
    left = _MORE_PLACES
    for member in reversed(census.members):
        if member.links[place] == link:
            yield f"/proc/{member.facts.pid}/ns/{kind}"
            left -= 1
            if not left:
                return
