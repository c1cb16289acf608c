"""Decide which processes and references of a scan the rules let a peer see."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from nsbroker.daemon.discovery.scan_result import TYPES, ScannedProcess, ScannedReference
from nsbroker.daemon.engines.container import Container
from nsbroker.daemon.engines.registry import distinct
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.policy.grants import Grants
from nsbroker.daemon.targets.held_store import HeldStore
from nsbroker.daemon.targets.pinned import PinnedContainer
from nsbroker.linux.credentials import Credentials
from nsbroker.linux.descriptors import is_out_of_files
from nsbroker.linux.process import Process
from nsbroker.model.description import Reference, ReferenceKind
from nsbroker.model.identity import NamespaceType, format_id
from nsbroker.namespace.opening import NAME_DIRECTORIES

_NONE: frozenset[NamespaceType] = frozenset()


class NamedProcess(NamedTuple):
    """A process with a name: the first process of a container, or the main process of a unit."""

    pid: int
    name: str


class Visibility:
    """What one peer may see.

    `everything`: the types of which it may see all namespaces.  For the other types, `sees_process` returns the types that it
    may see through a process, and `sees_reference` whether it may see the namespace of a reference.
    """

    def __init__(
        self,
        everything: frozenset[NamespaceType],
        sees_process: Callable[[ScannedProcess], frozenset[NamespaceType]],
        sees_reference: Callable[[ScannedReference], bool],
        containers: Sequence[NamedProcess],
        more: Iterable[ScannedReference] = (),
        number_of: Callable[[int], int | None] = lambda pid: pid,
    ) -> None:
        """`more`: what it sees beside the scan.  `number_of`: the pid that a process has for the peer, None if it cannot see it."""
        self.everything = everything
        self.sees_process = sees_process
        self.sees_reference = sees_reference
        self.containers = containers
        self.more = tuple(more)
        self.number_of = number_of


def visibility_for(
    grants: Grants,
    peer: Peer,
    containers: Mapping[Container, frozenset[NamespaceType]],
    units: Sequence[NamedProcess],
    held: HeldStore,
) -> Visibility:
    """Return what `peer`, who has `grants`, may see.

    `containers`: the containers of which it may open something, with the types that it may open.  `units`: the main processes
    of the units that a rule names.
    """
    everything = grants.everywhere()
    by_pid: dict[int, frozenset[NamespaceType]] = {}
    for container, types in containers.items():
        by_pid[container.pid] = by_pid.get(container.pid, _NONE) | types
    # A container that several engines list gets the name of the engine that people run it with.
    labels = [NamedProcess(container.pid, container.target) for container in distinct(containers)]
    for unit in units:
        by_pid[unit.pid] = by_pid.get(unit.pid, _NONE) | grants.types((unit.name,), own=False)
    return Visibility(
        everything,
        _ProcessRules(grants, peer, by_pid).types,
        _ReferenceRules(grants, peer).sees,
        labels,
        _held_references(grants, peer, held),
        peer.number_of,
    )


class _ProcessRules:
    """Decides about processes: by pid, as the peer's own, and as the named processes of containers and units."""

    def __init__(self, grants: Grants, peer: Peer, by_pid: dict[int, frozenset[NamespaceType]]) -> None:
        self._grants = grants
        self._user = None if peer.anonymous or not grants.has_own else peer.credentials
        self._named = grants.has_kind("pid")
        self._by_pid = by_pid

    def types(self, process: ScannedProcess) -> frozenset[NamespaceType]:
        pid = process.facts.pid
        types = self._by_pid.get(pid, _NONE)
        own = self._user is not None and _is_own(process, self._user)
        if own or self._named:
            types |= self._grants.types((f"pid:{pid}",), own=own)
        return types


class _ReferenceRules:
    """Decides about references: by the threads, names and paths in rules, and by the ids of namespaces in rules."""

    def __init__(self, grants: Grants, peer: Peer) -> None:
        self._grants = grants
        self._user = None if peer.anonymous or not grants.has_own else peer.credentials
        self._ids = [ns_type for ns_type in NamespaceType if grants.has_kind(ns_type)]

    def sees(self, scanned: ScannedReference) -> bool:
        ns_id, reference, process = scanned
        ns_type = NamespaceType(ns_id.partition(":")[0])
        if ns_type in self._ids and ns_type in self._grants.types((ns_id,), own=False):
            return True
        if reference.kind is ReferenceKind.THREAD and process is not None:
            own = self._user is not None and _is_own(process, self._user, reference.number)
            return ns_type in self._grants.types((f"tid:{reference.pid}/{reference.number}",), own=own)
        if reference.kind is ReferenceKind.MOUNT and reference.pid is None:
            return any(ns_type in self._grants.types((name,), own=False) for name in _names_of_file(reference.path or ""))
        return False


def _is_own(scanned: ScannedProcess, user: Credentials, tid: int | None = None) -> bool:
    """Return whether the process (or its thread `tid`) is the user's own and still the one that was scanned.

    It is the user's own when all its uids are the user's and the kernel lets that user look into it.
    """
    facts = scanned.facts
    if facts.is_kernel_thread:
        return False
    try:
        with Process.open(facts.pid) if tid is None else Process.open_thread(facts.pid, tid) as process:
            if process.info().uids != (user.uid,) * 4:
                return False
            if user.uid == os.geteuid() != 0:
                return _is_in_same_namespaces(process, scanned, tid)
            process.prepare()
            with user:
                return _is_in_same_namespaces(process, scanned, tid)
    except OSError as error:
        if is_out_of_files(error):
            raise
        return False


def _is_in_same_namespaces(process: Process, scanned: ScannedProcess, tid: int | None) -> bool:
    """Return whether the process is in the namespaces of the scanned process, so that it does not matter if it is another one.

    Its start time is not compared, because reading it can block.  Of a thread, only whether its namespaces can be opened is
    checked.  Raises OSError when they cannot.
    """
    for ns_type, ns_id in zip(TYPES, scanned.ns_ids, strict=True):
        fd = process.open_namespace(ns_type)
        try:
            if tid is None and ns_id != format_id(ns_type, os.fstat(fd).st_ino):
                return False
        finally:
            os.close(fd)
    return True


def _names_of_file(path: str) -> list[str]:
    folder, _, name = path.rpartition("/")
    return [f"path:{path}", *([f"name:{name}"] if folder in NAME_DIRECTORIES else [])]


def openable_types(pinned: PinnedContainer, grants: Grants, peer: Peer) -> frozenset[NamespaceType]:
    """Return the types that the peer may open of the container `pinned` (borrowed)."""
    own = pinned.belongs_to(peer) and pinned.is_open_to(peer.credentials)
    return grants.types(pinned.names, own=own)


def _held_references(grants: Grants, peer: Peer, held: HeldStore) -> list[ScannedReference]:
    found = []
    for one in held:
        name = f"name:{one.name}"
        types = grants.types_of_held(name, own=peer.owns(one.uid))
        found += [
            ScannedReference(str(ns), Reference(ReferenceKind.DESCRIPTOR, path=name), None)
            for ns_type, ns in one.namespaces.items()
            if ns_type in types
        ]
    return found
