"""What a peer may see of a census: what it may open, and of that only the holders by which it may open it.

Counts, leading processes and holders are made of those alone, so an answer says nothing of the rest.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from msgspec import structs

from nsbroker.daemon.discovery.command_lines import name_of
from nsbroker.daemon.discovery.scan_result import TYPES, Census, Member, Sighting
from nsbroker.daemon.peer import unit_of
from nsbroker.linux import nsfs, process_table
from nsbroker.model.description import Holder, HolderKind, LeadingProcess, NamespaceDescription
from nsbroker.model.identity import NamespaceType

_HOLDERS_MAX = 16
_NAMES_MAX = 200
# Of the 65536 bytes of a message, in which a character may take six.
_PATHS_MAX = 4096
_NAMES_TEXT_MAX = 4096


class Named(NamedTuple):
    """A process that has a name of its own: a container's first, a unit's."""

    pid: int
    name: str


class Sight:
    """What one peer may see.  `everything`: the types of which it may see all; else `sees_process` and `sees_sighting` tell
    which types it sees by them.
    """

    def __init__(
        self,
        everything: frozenset[NamespaceType],
        sees_process: Callable[[Member], frozenset[NamespaceType]],
        sees_sighting: Callable[[Sighting], bool],
        containers: Sequence[Named],
        more: Iterable[Sighting] = (),
        number_of: Callable[[int], int | None] = lambda pid: pid,
    ) -> None:
        """`more`: what it sees beside the census.  `number_of`: what the peer calls a process, if it can see it at all."""
        self.everything = everything
        self.sees_process = sees_process
        self.sees_sighting = sees_sighting
        self.containers = containers
        self.more = tuple(more)
        self.number_of = number_of


class View:
    """The namespaces of `census` that `sight` shows, of `types`."""

    def __init__(self, census: Census, sight: Sight, types: Iterable[NamespaceType]) -> None:
        self._relations = census.relations
        self._number_of = sight.number_of
        self._device = nsfs.device()
        self._counts: Counter[str] = Counter()
        self._leaders: dict[str, Member] = {}
        self._containers: dict[str, list[str]] = defaultdict(list)
        self._units: dict[str, dict[str, None]] = defaultdict(dict)
        self._holders: dict[str, list[Holder]] = defaultdict(list)
        wanted = frozenset(types)
        seen = _seen(census, sight, wanted)
        self._add_members(seen)
        self._add_sightings(census, sight, wanted)
        self._add_names(seen, sight.containers)

    def _add_members(self, seen: Mapping[NamespaceType, Sequence[Member]]) -> None:
        for kind, members in seen.items():
            place = TYPES.index(kind)
            self._counts.update([member.links[place] for member in members])
            self._leaders.update({member.links[place]: member for member in reversed(members)})

    def _add_sightings(self, census: Census, sight: Sight, wanted: frozenset[NamespaceType]) -> None:
        for sighting in census.sightings:
            kind = NamespaceType(sighting.link.partition(":")[0])
            if kind in wanted and (kind in sight.everything or sight.sees_sighting(sighting)):
                self._add_holder(sighting)
        for sighting in sight.more:
            if sighting.link.partition(":")[0] in wanted:
                self._add_holder(sighting)

    def _add_holder(self, sighting: Sighting) -> None:
        link, holder, _ = sighting
        if holder.kind is HolderKind.NAMESPACE and (link in self._counts or _has_others(self._holders.get(link, ()))):
            # Of what lives by itself, whatever it owns would go on without end.
            return
        holders = self._holders[link]
        if len(holders) < _HOLDERS_MAX and holder not in holders:
            holders.append(holder)

    def _add_names(self, seen: Mapping[NamespaceType, Sequence[Member]], containers: Sequence[Named]) -> None:
        names: dict[int, list[str]] = defaultdict(list)
        for named in containers:
            names[named.pid].append(named.name)
        units = _Units()
        for kind, members in seen.items():
            place = TYPES.index(kind)
            for member in members:
                pid, link = member.facts.pid, member.links[place]
                if pid in names:
                    self._containers[link] += names[pid]
                if not member.facts.is_kernels and (unit := units.of(pid)) is not None:
                    self._units[link][unit] = None

    def links(self) -> list[str]:
        """All of them, by their inodes."""
        return sorted(self._counts.keys() | self._holders.keys(), key=_inode)

    def key(self, link: str) -> tuple[str, int | None]:
        """What tells a namespace from one that has its number later, as far as the kernel does."""
        relations = self._relations.get(link)
        return link, relations and relations.id

    def leaders(self, links: Iterable[str]) -> list[Member]:
        """The leading processes of these."""
        return [self._leaders[link] for link in links if link in self._leaders]

    def describe(self, link: str, commands: Mapping[int, LeadingProcess]) -> NamespaceDescription:
        """One of them, with what is known of leading processes, by their numbers."""
        relations = self._relations.get(link)
        leader = self._leaders.get(link)
        return NamespaceDescription(
            type=NamespaceType(link.partition(":")[0]),
            inode=_inode(link),
            device=self._device,
            processes=self._counts[link],
            id=relations and relations.id,
            owner=None if relations is None or relations.owner is None else _inode(relations.owner),
            owner_uid=relations and relations.owner_uid,
            parent=None if relations is None or relations.parent is None else _inode(relations.parent),
            process=None if leader is None else self._numbered(commands.get(leader.facts.pid) or name_of(leader)),
            holders=_told(self._holders.get(link), self._number_of),
            containers=_trimmed(self._containers.get(link)),
            units=_trimmed(self._units.get(link)),
        )

    def _numbered(self, process: LeadingProcess) -> LeadingProcess | None:
        """The process by the number that the peer has for it; None when it has none."""
        number = self._number_of(process.pid)
        return None if number is None else structs.replace(process, pid=number)


class _Units:
    """The units of processes.  Most have their control groups in common with others."""

    def __init__(self) -> None:
        self._by_process: dict[int, str | None] = {}
        self._by_groups: dict[bytes, str | None] = {}

    def of(self, pid: int) -> str | None:
        if pid not in self._by_process:
            text = process_table.control_groups(pid)
            if text not in self._by_groups:
                lines = [line.decode(errors="backslashreplace").split(":", 2) for line in text.split(b"\n") if line]
                self._by_groups[text] = unit_of({name: path for _, name, path in lines})
            self._by_process[pid] = self._by_groups[text]
        return self._by_process[pid]


def _seen(census: Census, sight: Sight, wanted: frozenset[NamespaceType]) -> dict[NamespaceType, list[Member]]:
    seen: dict[NamespaceType, list[Member]] = dict.fromkeys(wanted & sight.everything, census.members)
    rest = wanted - sight.everything
    if rest:
        seen |= {kind: [] for kind in rest}
        for member in census.members:
            for kind in sight.sees_process(member) & rest:
                seen[kind].append(member)
    return seen


def _has_others(holders: Sequence[Holder]) -> bool:
    return any(holder.kind is not HolderKind.NAMESPACE for holder in holders)


def _told(holders: Sequence[Holder] | None, number_of: Callable[[int], int | None]) -> list[Holder] | None:
    """As they go on the wire, which takes text alone, and so much of it: what a path has in it that is none is written as
    escapes, and of long ones not all are told.  Processes have the numbers that the peer has for them, or none.
    """
    if holders is None:
        return None
    told = []
    left = _PATHS_MAX
    for holder in holders:
        if holder.pid is not None:
            number = number_of(holder.pid)
            holder = Holder(holder.kind) if number is None else structs.replace(holder, pid=number)
        path = None if holder.path is None else os.fsencode(holder.path).decode(errors="backslashreplace")
        left -= len(path or "")
        if left >= 0:
            told.append(structs.replace(holder, path=path))
    return told


def _inode(link: str) -> int:
    return int(link.partition("[")[2][:-1])


def _trimmed(names: Iterable[str] | None) -> list[str] | None:
    """As many names as fit into a reply."""
    if names is None:
        return None
    kept: list[str] = []
    size = 0
    for name in names:
        size += len(name)
        if len(kept) == _NAMES_MAX or size > _NAMES_TEXT_MAX:
            break
        kept.append(name)
    return kept
