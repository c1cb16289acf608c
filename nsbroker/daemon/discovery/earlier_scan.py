"""What a quick scan takes over from an earlier scan.

A process is taken over if it had settled by then, is still the same, and is still in the same namespaces.  Such a process is
assumed to have the same files open as before, and its threads to be in the same namespaces as before.  Where that is wrong,
the next full scan corrects it.
"""

import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

from nsbroker.daemon.discovery.relations import Relations
from nsbroker.daemon.discovery.scan_result import TYPES, ScannedProcess, ScannedReference, ScanResult
from nsbroker.linux import process_table
from nsbroker.model.description import ReferenceKind
from nsbroker.model.identity import NamespaceType

# A process that is younger than this, in seconds, may still be about to move to other namespaces.
_SETTLED = 3.0
_TICKS = os.sysconf("SC_CLK_TCK")


class EarlierScan:
    """An earlier scan.  Call `take_over` for each process first; the other methods are about those that were taken over."""

    def __init__(self, scan: ScanResult) -> None:
        self._scan = scan
        latest = (scan.at - _SETTLED) * _TICKS
        self._settled = {process.facts.pid: process for process in scan.processes if process.facts.start_time < latest}
        self._taken_over: dict[int, ScannedProcess] = {}
        self._references: dict[int, list[ScannedReference]] = defaultdict(list)
        # Bind mounts, by the pid of the process that sees them.
        self._mounts: dict[int, list[ScannedReference]] = defaultdict(list)
        for scanned in scan.references:
            if scanned.process is not None:
                by_process = self._mounts if scanned.reference.kind is ReferenceKind.MOUNT else self._references
                by_process[scanned.process.facts.pid].append(scanned)

    def take_over(self, pid: int) -> ScannedProcess | None:
        """Return the process if it is unchanged: it has the same start time, parent, name and number of threads, and is in the
        same namespaces.  Otherwise return None.

        Can block, as `process_table.read_facts` can.
        """
        known = self._settled.get(pid)
        if known is None or process_table.read_facts(pid) != known.facts:
            return None
        # Visibility is decided by the process as it is now, so its namespaces must be the current ones, too.
        if process_table.links(f"/proc/{pid}", TYPES) != known.ns_ids:
            return None
        self._taken_over[pid] = known
        return known

    def has(self, process: ScannedProcess) -> bool:
        """Return whether the process was taken over."""
        return self._taken_over.get(process.facts.pid) is process

    def references(self, process: ScannedProcess) -> Sequence[ScannedReference]:
        """Return what a process that was taken over keeps alive beside its own namespaces."""
        return self._references.get(process.facts.pid, ())

    def mounts(self) -> Mapping[str, Sequence[ScannedReference]]:
        """Return the namespaces that are bound in mount namespaces other than the broker's, by mount namespace.

        All mount namespaces of the earlier scan are in it.  It is empty when a process through which a bind mount was seen has
        not been taken over.
        """
        if not self._mounts.keys() <= self._taken_over.keys():
            return {}
        column = TYPES.index(NamespaceType.MNT)
        found: dict[str, list[ScannedReference]] = {}
        for process in self._scan.processes:
            found.setdefault(process.ns_ids[column], []).extend(self._mounts.get(process.facts.pid, ()))
        return found

    def relations(self) -> dict[str, Relations]:
        """Return the relations of the namespaces that processes taken over kept alive, and of their owners and parents."""
        waiting = [ns_id for process in self._taken_over.values() for ns_id in process.ns_ids]
        waiting += [scanned.ns_id for pid in self._taken_over for scanned in self._references.get(pid, ())]
        found: dict[str, Relations] = {}
        while waiting:
            ns_id = waiting.pop()
            relations = self._scan.relations.get(ns_id)
            if relations is not None and ns_id not in found:
                found[ns_id] = relations
                waiting += [above for above in (relations.owner, relations.parent) if above is not None]
        return found


def seconds_since_boot() -> float:
    """Return the time now, on the clock of process start times."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
