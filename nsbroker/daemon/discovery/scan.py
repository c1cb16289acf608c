"""Scan the host for everything that keeps a namespace alive: processes, threads, open files, sockets, bind mounts, and
other namespaces.

A scan takes time, and the host changes meanwhile.  What has ended by then is left out; what has moved is reported where it
was when it was looked at.  The namespaces of a process are read one after the other.  A process is identified by its pid
and its start time.

A quick scan looks only at what has changed since an earlier scan (`EarlierScan`).
"""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping

from nsbroker.daemon.discovery.earlier_scan import EarlierScan, seconds_since_boot
from nsbroker.daemon.discovery.relations import relations_of
from nsbroker.daemon.discovery.scan_budget import ScanBudget
from nsbroker.daemon.discovery.scan_result import TYPES, ScannedProcess, ScannedReference, ScanResult
from nsbroker.daemon.discovery.stall_guard import Progress
from nsbroker.errors import InvalidType
from nsbroker.linux import file_handle, nsfs, process_table, socket_owner
from nsbroker.linux.process import real_user
from nsbroker.linux.process_table import Facts
from nsbroker.model.description import Reference, ReferenceKind
from nsbroker.model.identity import NamespaceType, format_id
from nsbroker.namespace.search import socket_place

# Only these can differ between the threads of a process: the other types require a single-threaded process (setns(2),
# unshare(2)).
_THREAD_TYPES = tuple(ns_type for ns_type in TYPES if ns_type in ("cgroup", "ipc", "mnt", "net", "uts"))
_CHILDREN = ("pid_for_children", "time_for_children")
_PREFIXES = frozenset(TYPES)
_ROUNDS = 4
_MORE_PLACES = 16
# The cost of a socket and of a piece of a mount table, in looks (`ScanBudget`).  Reading a link costs one look.
_SOCKET_LOOKS = 6
_TABLE_LOOKS = 256
_DETACHED = {"/": ""}


def scan_host(progress: Progress, known: ScanResult | None = None) -> ScanResult:
    """Scan the host.  With `known`, the result of an earlier scan, make a quick scan.

    This can block, so call it on a thread that can be abandoned.  `progress` records which process is being looked at.
    Raises Stalled when the scan was given up.
    """
    scan = ScanResult(own_mounts=process_table.link("/proc/self", "mnt") or "", at=seconds_since_boot())
    earlier = EarlierScan(known or ScanResult())
    scan.processes = _scan_processes(progress, earlier)
    budget = ScanBudget()
    bound = list(_bound_namespaces(scan, budget, progress, earlier))
    # Only mounts that the broker itself sees: the same path in another mount namespace can be a different file.
    paths = {"/": "", **{one.reference.path or "": one.ns_id for one in bound if one.reference.pid is None}}
    mounts = TYPES.index(NamespaceType.MNT)
    for process in scan.processes:
        if earlier.has(process):
            scan.references += earlier.references(process)
        elif not process.facts.is_kernel_thread and progress.may_look(process.facts.pid):
            here = process.ns_ids[mounts] == scan.own_mounts
            scan.references += _process_references(process, paths if here else _DETACHED, budget)
    scan.references += bound
    scan.references += _bound_in_threads(scan, bound, budget)
    scan.places = _places(scan)
    scan.relations = relations_of(scan.places, lambda ns_id: _more_places(scan, ns_id), progress.may_look, earlier.relations())
    for ns_id, relations in scan.relations.items():
        scan.references += [
            ScannedReference(relative, Reference(ReferenceKind.NAMESPACE, path=ns_id), None)
            for relative in {relations.owner, relations.parent} - {None, ns_id}
            if relative is not None
        ]
    return scan


def _scan_processes(progress: Progress, earlier: EarlierScan) -> list[ScannedProcess]:
    """Return all processes, including those that are born during the scan: such a process may be the only one left in the
    namespaces of its parent.
    """
    found: dict[int, ScannedProcess] = {}
    # Most processes share all their namespaces with others, so each distinct tuple is kept only once.
    same: dict[tuple[str, ...], tuple[str, ...]] = {}
    seen: set[int] = set()
    for _ in range(_ROUNDS):
        new = [pid for pid in process_table.process_ids() if pid not in seen]
        if not new:
            break
        seen.update(new)
        for pid in new:
            process = (earlier.take_over(pid) or _scan_process(pid, same)) if progress.may_look(pid) else None
            if process is not None:
                found[pid] = process
    return [found[pid] for pid in sorted(found)]


def _scan_process(pid: int, same: dict[tuple[str, ...], tuple[str, ...]]) -> ScannedProcess | None:
    facts = process_table.read_facts(pid)
    ns_ids = process_table.links(f"/proc/{pid}", TYPES)
    return None if facts is None or ns_ids is None else ScannedProcess(facts, same.setdefault(ns_ids, ns_ids))


def _process_references(process: ScannedProcess, paths: Mapping[str, str], budget: ScanBudget) -> Iterator[ScannedReference]:
    own = frozenset(process.ns_ids)
    pid = process.facts.pid
    for found in (
        _references_by_children(pid),
        _references_by_threads(process.facts, budget),
        _references_by_files(pid, paths, budget),
    ):
        for ns_id, reference in found:
            if ns_id not in own or reference.kind is ReferenceKind.DESCRIPTOR:
                yield ScannedReference(ns_id, reference, process)


def _references_by_children(pid: int) -> Iterator[tuple[str, Reference]]:
    for name in _CHILDREN:
        ns_id = process_table.link(f"/proc/{pid}", name)
        if ns_id is not None:
            yield ns_id, Reference(ReferenceKind.CHILDREN, pid)


def _references_by_threads(facts: Facts, budget: ScanBudget) -> Iterator[tuple[str, Reference]]:
    if facts.threads > 1:
        for tid in budget.limited(facts.pid, len(_THREAD_TYPES), process_table.threads(facts.pid)):
            for ns_id in process_table.links(f"/proc/{facts.pid}/task/{tid}", _THREAD_TYPES) or ():
                yield ns_id, Reference(ReferenceKind.THREAD, facts.pid, tid)


def _references_by_files(pid: int, paths: Mapping[str, str], budget: ScanBudget) -> Iterator[tuple[str, Reference]]:
    """Yield what the open files of a process refer to.

    `paths` maps the link of a file that was opened through a bind mount to the id of the namespace.  The link is "/" when
    the mount is gone.
    """
    sockets = []
    for number, text in process_table.descriptors(pid, paths, lambda names: budget.limited(pid, 1, names)):
        ns_type = text.partition(":")[0]
        if ns_type == "socket":
            sockets.append(number)
            continue
        if ns_type in _PREFIXES:
            ns_id: str | None = text
        elif text in paths:
            ns_id = paths[text] or _ns_id_at(pid, number)
        else:
            continue  # a pipe, an epoll(7) instance and the like
        if ns_id is not None:
            yield ns_id, Reference(ReferenceKind.DESCRIPTOR, pid, number)
    for number, inode in socket_owner.networks(pid, budget.limited(pid, _SOCKET_LOOKS, sockets)):
        yield format_id("net", inode), Reference(ReferenceKind.SOCKET, pid, number)


def _ns_id_at(pid: int, number: int) -> str | None:
    """Return the namespace behind an open file of a root process whose bind mount is gone; None for anything else."""
    if real_user(pid) != 0:
        # Even opening it with O_PATH can block on a file system.
        return None
    try:
        found = os.open(f"/proc/{pid}/fd/{number}", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        ns = _identify(found)
        return None if ns is None else format_id(NamespaceType.of_flag(ns[0]), ns[1])
    except (OSError, InvalidType):
        return None
    finally:
        os.close(found)


def _identify(found: int) -> tuple[int, int] | None:
    """Return the CLONE_NEW* flag and the inode of the namespace `found` (borrowed, O_PATH), None if it is no namespace."""
    try:
        return file_handle.namespace_at(found)
    except OSError as error:
        # Namespaces have file handles since Linux 6.18, and some file systems have none at all.
        if error.errno != errno.EOPNOTSUPP:
            raise
    return nsfs.identify(found)


def _bound_namespaces(scan: ScanResult, budget: ScanBudget, progress: Progress, earlier: EarlierScan) -> Iterator[ScannedReference]:
    """Yield the namespaces that are bound to files in the mount namespace of any process; the broker's own comes first."""
    mounts = TYPES.index(NamespaceType.MNT)
    views: dict[str, tuple[str, ScannedProcess | None]] = {scan.own_mounts: ("/proc/self", None)}
    for process in scan.processes:
        views.setdefault(process.ns_ids[mounts], (f"/proc/{process.facts.pid}", process))
    seen: set[tuple[str, str]] = set()
    known = earlier.mounts()
    for mount_ns, (directory, viewer) in views.items():
        if viewer is not None and mount_ns in known:
            yield from known[mount_ns]
            seen.update((one.ns_id, one.reference.path or "") for one in known[mount_ns])
            continue
        pid = viewer.facts.pid if viewer else os.getpid()
        if not progress.may_look(pid):
            continue
        table = process_table.bound_namespaces(directory, budget.drawing(pid, _TABLE_LOOKS))
        for ns_id, path in budget.limited(pid, 1, table):
            # Most mounts of a container are copies of the host's mounts, so report each only once.
            if (ns_id, path) not in seen:
                seen.add((ns_id, path))
                yield ScannedReference(ns_id, Reference(ReferenceKind.MOUNT, viewer and viewer.facts.pid, path=path), viewer)


def _bound_in_threads(scan: ScanResult, bound: Iterable[ScannedReference], budget: ScanBudget) -> Iterator[ScannedReference]:
    """Yield the namespaces that are bound to files in mount namespaces that only threads are in."""
    seen = {(one.ns_id, one.reference.path) for one in bound}
    for ns_id, reference, process in list(scan.references):
        if reference.kind is ReferenceKind.THREAD and ns_id.startswith("mnt:"):
            go_on = budget.drawing(reference.pid or 0, _TABLE_LOOKS)
            for found, path in process_table.bound_namespaces(f"/proc/{reference.pid}/task/{reference.number}", go_on):
                if (found, path) not in seen:
                    seen.add((found, path))
                    yield ScannedReference(found, Reference(ReferenceKind.MOUNT, reference.pid, path=path), process)


def _places(scan: ScanResult) -> dict[str, str]:
    """Return a place at which each namespace can be opened (`search.open_place`), for those that have one."""
    places: dict[str, str] = {}
    for ns_id, reference, _ in scan.references:
        match reference.kind:
            case ReferenceKind.THREAD:
                places[ns_id] = f"/proc/{reference.pid}/task/{reference.number}/ns/{ns_id.partition(':')[0]}"
            case ReferenceKind.CHILDREN:
                places[ns_id] = f"/proc/{reference.pid}/ns/{ns_id.partition(':')[0]}_for_children"
            case ReferenceKind.DESCRIPTOR:
                places[ns_id] = f"/proc/{reference.pid}/fd/{reference.number}"
            case ReferenceKind.SOCKET:
                places[ns_id] = socket_place(reference.pid or 0, reference.number or 0)
            case ReferenceKind.MOUNT if reference.pid is None:
                places[ns_id] = reference.path or ""
            case ReferenceKind.MOUNT if real_user(reference.pid or 0) == 0:
                # Only for root: the path to another user's file may lead through a file system that never answers.
                places[ns_id] = f"/proc/{reference.pid}/root{reference.path}"
    for one in reversed(scan.processes):
        base = f"/proc/{one.facts.pid}/ns/"
        for ns_type, ns_id in zip(TYPES, one.ns_ids, strict=True):
            places[ns_id] = base + ns_type
    return places


def _more_places(scan: ScanResult, ns_id: str) -> Iterator[str]:
    """Yield other places of a namespace: of the last processes in it, since those are the most likely to be still there."""
    ns_type = ns_id.partition(":")[0]
    column = TYPES.index(NamespaceType(ns_type))
    left = _MORE_PLACES
    for process in reversed(scan.processes):
        if process.ns_ids[column] == ns_id:
            yield f"/proc/{process.facts.pid}/ns/{ns_type}"
            left -= 1
            if not left:
                return
