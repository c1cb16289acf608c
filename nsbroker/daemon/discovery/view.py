"""What a peer may see of a scan: the namespaces that it may open, and only the references that let it open them.

Counts, leading processes and references are taken from these alone, so a reply reveals nothing about the rest.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import structs

from nsbroker.daemon.discovery.command_lines import name_of
from nsbroker.daemon.discovery.scan_result import TYPES, ScannedProcess, ScannedReference, ScanResult
from nsbroker.daemon.discovery.visibility import NamedProcess, Visibility
from nsbroker.daemon.peer import unit_of
from nsbroker.linux import cgroup, nsfs, process_table
from nsbroker.model.description import LeadingProcess, NamespaceDescription, Reference, ReferenceKind
from nsbroker.model.identity import NamespaceType

_REFERENCES_MAX = 16
_NAMES_MAX = 200
# In characters.  A message has 65536 bytes at most, and a character can take six of them.
_PATHS_MAX = 4096
_NAMES_TEXT_MAX = 4096


class View:
    """The namespaces of the scan, of the given types, that `visibility` shows."""

    def __init__(self, scan: ScanResult, visibility: Visibility, types: Iterable[NamespaceType]) -> None:
        self._relations = scan.relations
        self._number_of = visibility.number_of
        self._device = nsfs.device()
        self._counts: Counter[str] = Counter()
        self._leaders: dict[str, ScannedProcess] = {}
        self._containers: dict[str, list[str]] = defaultdict(list)
        self._units: dict[str, dict[str, None]] = defaultdict(dict)
        self._references: dict[str, list[Reference]] = defaultdict(list)
        wanted = frozenset(types)
        seen = _visible_processes(scan, visibility, wanted)
        self._add_processes(seen)
        self._add_references(scan, visibility, wanted)
        self._add_names(seen, visibility.containers)

    def _add_processes(self, seen: Mapping[NamespaceType, Sequence[ScannedProcess]]) -> None:
        for ns_type, processes in seen.items():
            column = TYPES.index(ns_type)
            self._counts.update([process.ns_ids[column] for process in processes])
            self._leaders.update({process.ns_ids[column]: process for process in reversed(processes)})

    def _add_references(self, scan: ScanResult, visibility: Visibility, wanted: frozenset[NamespaceType]) -> None:
        for scanned in scan.references:
            ns_type = NamespaceType(scanned.ns_id.partition(":")[0])
            if ns_type in wanted and (ns_type in visibility.everything or visibility.sees_reference(scanned)):
                self._add_reference(scanned)
        for scanned in visibility.more:
            if scanned.ns_id.partition(":")[0] in wanted:
                self._add_reference(scanned)

    def _add_reference(self, scanned: ScannedReference) -> None:
        ns_id, reference, _ = scanned
        if reference.kind is ReferenceKind.NAMESPACE and (
            ns_id in self._counts or _has_other_kinds(self._references.get(ns_id, ()))
        ):
            # It is alive without this reference, and it may own any number of namespaces.
            return
        references = self._references[ns_id]
        if len(references) < _REFERENCES_MAX and reference not in references:
            references.append(reference)

    def _add_names(self, seen: Mapping[NamespaceType, Sequence[ScannedProcess]], containers: Sequence[NamedProcess]) -> None:
        names: dict[int, list[str]] = defaultdict(list)
        for named in containers:
            names[named.pid].append(named.name)
        units = _Units()
        for ns_type, processes in seen.items():
            column = TYPES.index(ns_type)
            for process in processes:
                pid, ns_id = process.facts.pid, process.ns_ids[column]
                if pid in names:
                    self._containers[ns_id] += names[pid]
                if not process.facts.is_kernel_thread and (unit := units.of(pid)) is not None:
                    self._units[ns_id][unit] = None

    def ids(self) -> list[str]:
        """Return the ids of all namespaces in the view, in the order of their inodes."""
        return sorted(self._counts.keys() | self._references.keys(), key=_inode)

    def key(self, ns_id: str) -> tuple[str, int | None]:
        """Return what tells a namespace apart from a later one with the same inode, as far as the kernel can."""
        relations = self._relations.get(ns_id)
        return ns_id, relations and relations.id

    def leaders(self, ns_ids: Iterable[str]) -> list[ScannedProcess]:
        """Return the leading processes of these namespaces."""
        return [self._leaders[ns_id] for ns_id in ns_ids if ns_id in self._leaders]

    def describe(self, ns_id: str, commands: Mapping[int, LeadingProcess]) -> NamespaceDescription:
        """Describe one namespace.  `commands`: what is known of leading processes, by pid."""
        relations = self._relations.get(ns_id)
        leader = self._leaders.get(ns_id)
        return NamespaceDescription(
            type=NamespaceType(ns_id.partition(":")[0]),
            inode=_inode(ns_id),
            device=self._device,
            processes=self._counts[ns_id],
            id=relations and relations.id,
            owner=None if relations is None or relations.owner is None else _inode(relations.owner),
            owner_uid=relations and relations.owner_uid,
            parent=None if relations is None or relations.parent is None else _inode(relations.parent),
            process=None if leader is None else self._translate_process(commands.get(leader.facts.pid) or name_of(leader)),
            references=_prepare_references(self._references.get(ns_id), self._number_of),
            containers=_truncate(self._containers.get(ns_id)),
            units=_truncate(self._units.get(ns_id)),
        )

    def _translate_process(self, process: LeadingProcess) -> LeadingProcess | None:
        """Return `process` with its pid translated into the peer's PID namespace; None when it has none there."""
        number = self._number_of(process.pid)
        return None if number is None else structs.replace(process, pid=number)


class _Units:
    """Finds the units of processes.  Most processes share their control groups with others, so results are cached."""

    def __init__(self) -> None:
        self._by_process: dict[int, str | None] = {}
        self._by_groups: dict[bytes, str | None] = {}

    def of(self, pid: int) -> str | None:
        if pid not in self._by_process:
            text = process_table.control_groups(pid)
            if text not in self._by_groups:
                unit = unit_of(cgroup.parse(text))
                self._by_groups[text] = None if unit is None else _escape(unit)
            self._by_process[pid] = self._by_groups[text]
        return self._by_process[pid]


def _visible_processes(
    scan: ScanResult, visibility: Visibility, wanted: frozenset[NamespaceType]
) -> dict[NamespaceType, list[ScannedProcess]]:
    seen: dict[NamespaceType, list[ScannedProcess]] = dict.fromkeys(wanted & visibility.everything, scan.processes)
    rest = wanted - visibility.everything
    if rest:
        seen |= {ns_type: [] for ns_type in rest}
        for process in scan.processes:
            for ns_type in visibility.sees_process(process) & rest:
                seen[ns_type].append(process)
    return seen


def _has_other_kinds(references: Sequence[Reference]) -> bool:
    return any(reference.kind is not ReferenceKind.NAMESPACE for reference in references)


def _prepare_references(references: Sequence[Reference] | None, number_of: Callable[[int], int | None]) -> list[Reference] | None:
    """Return the references as a reply can carry them.

    Bytes of a path that are not text become escapes.  When the paths become too long for a reply, the rest of the references
    is left out.  Processes get the pids that they have for the peer; if the peer cannot see the process, only the kind is left.
    """
    if references is None:
        return None
    prepared = []
    left = _PATHS_MAX
    for reference in references:
        if reference.pid is not None:
            number = number_of(reference.pid)
            reference = Reference(reference.kind) if number is None else structs.replace(reference, pid=number)
        path = None if reference.path is None else _escape(reference.path)
        left -= len(path or "")
        if left >= 0:
            prepared.append(structs.replace(reference, path=path))
    return prepared


def _escape(path: str) -> str:
    """Return a path, or a part of one, as text: bytes that are not UTF-8 become escapes."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _inode(ns_id: str) -> int:
    return int(ns_id.partition("[")[2][:-1])


def _truncate(names: Iterable[str] | None) -> list[str] | None:
    """Return as many of the names as fit into a reply."""
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
