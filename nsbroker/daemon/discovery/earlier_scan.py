"""What a quick pass takes over from an earlier one.

Processes that were settled then, are the same now and are where they were, are taken to have open what they had, and their
threads to be where those were.  Where that is wrong, the next full pass finds it.
"""

import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

from nsbroker.daemon.discovery.relations import Relations
from nsbroker.daemon.discovery.scan_result import TYPES, Census, Member, Sighting
from nsbroker.linux import process_table
from nsbroker.model.description import HolderKind
from nsbroker.model.identity import NamespaceType

# A process that is younger, in seconds, has perhaps not yet gone where it will be.
_SETTLED = 3.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Earlier:
    """An earlier pass.  `take_over` comes first, for each process; the rest tells of those that were taken over."""

    def __init__(self, census: Census) -> None:
        self._census = census
        latest = (census.at - _SETTLED) * _TICKS
        self._settled = {member.facts.pid: member for member in census.members if member.facts.start_time < latest}
        self._taken: dict[int, Member] = {}
        self._sightings: dict[int, list[Sighting]] = defaultdict(list)
        # By who sees what is bound there.
        self._mounts: dict[int, list[Sighting]] = defaultdict(list)
        for sighting in census.sightings:
            if sighting.member is not None:
                by_process = self._mounts if sighting.holder.kind is HolderKind.MOUNT else self._sightings
                by_process[sighting.member.facts.pid].append(sighting)

    def take_over(self, pid: int) -> Member | None:
        """The process, if it is the one that was seen, runs the same, has as many threads and is in the same namespaces.

        Waits as `process_table.read_facts`.
        """
        known = self._settled.get(pid)
        if known is None or process_table.read_facts(pid) != known.facts:
            return None
        # Who may see a process is asked of it as it is now: so must be where it is.
        if process_table.links(f"/proc/{pid}", TYPES) != known.links:
            return None
        self._taken[pid] = known
        return known

    def has(self, member: Member) -> bool:
        """Whether it was taken over."""
        return self._taken.get(member.facts.pid) is member

    def sightings(self, member: Member) -> Sequence[Sighting]:
        """What a process that was taken over keeps alive beside its own namespaces."""
        return self._sightings.get(member.facts.pid, ())

    def mounts(self) -> Mapping[str, Sequence[Sighting]]:
        """What is bound in mount namespaces other than the broker's, by those; of all that were looked at, unless somebody who
        saw something has gone.
        """
        if not self._mounts.keys() <= self._taken.keys():
            return {}
        place = TYPES.index(NamespaceType.MNT)
        found: dict[str, list[Sighting]] = {}
        for member in self._census.members:
            found.setdefault(member.links[place], []).extend(self._mounts.get(member.facts.pid, ()))
        return found

    def relations(self) -> dict[str, Relations]:
        """Those of the namespaces that processes which were taken over have kept alive since, and of what is above them."""
        waiting = [link for member in self._taken.values() for link in member.links]
        waiting += [sighting.link for pid in self._taken for sighting in self._sightings.get(pid, ())]
        found: dict[str, Relations] = {}
        while waiting:
            link = waiting.pop()
            relations = self._census.relations.get(link)
            if relations is not None and link not in found:
                found[link] = relations
                waiting += [above for above in (relations.owner, relations.parent) if above is not None]
        return found


def seconds_since_boot() -> float:
    """Now, as the start times of processes count it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
