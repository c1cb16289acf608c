"""Finding out in which container a caller is, before its call is answered, as far as rules are for containers."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nsbroker.daemon.context import Context
from nsbroker.daemon.engines.query import EngineQuery
from nsbroker.daemon.peer import Peer, Workload
from nsbroker.errors import BrokerError
from nsbroker.linux.process import Process

# Seconds after which an engine that did not answer is asked again for the same peer.
_RETRY = 1.0


class _Search(NamedTuple):
    """The last search for the container of a peer that was in these control groups.

    It is repeated after `retry` (time.monotonic()), and when a reload names other engines or other `places` of them.  `reason` says
    why an engine could not be asked.
    """

    groups: Mapping[str, str]
    engines: frozenset[str]
    places: Mapping[str, Sequence[str]]
    retry: float
    reason: str


class Identification:
    """Remembers in each peer which container it is in, for as long as that is true."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def is_due(self, peer: Peer) -> bool:
        """Return whether `identify` must be awaited before the peer's next call."""
        engines = self._context.policy.workload_engines
        if not engines:
            return False
        process, last = peer.process(), peer.identification
        if process is None:
            return False
        if not isinstance(last, _Search) or last.engines != engines or last.places != self._context.engines.places:
            return True
        if time.monotonic() > last.retry:
            return True
        return peer.workload() is None and _groups(process) != last.groups

    async def identify(self, peer: Peer) -> None:
        """Look for the container that the peer is in.  One that was found before stays if an engine does not answer."""
        # Read before anything is awaited: a reload can come in between.
        engines, registry = self._context.policy.workload_engines, self._context.engines
        process = peer.process()
        if process is None:
            return
        groups = _groups(process)
        query = EngineQuery(
            peer.user,
            peer.uid,
            peer.gid,
            with_rootless=False,
            may_name=lambda engine: not engines.isdisjoint((engine, "container")),
            may_know=lambda _: False,
        )
        reason, retry = "", math.inf
        try:
            workload, failures = await registry.find_workload(process, query)
            known = peer.workload()
            # If an engine did not answer, it may be the one that knows the container that was found before and still holds.
            if not failures or known is None or (workload is not None and _says_as_much(workload, known)):
                peer.set_workload(workload)
            elif workload is not None:
                workload.close()
            if failures:
                reason = "; ".join(f"{failure.engine}: {failure.reason}" for failure in failures)
                retry = time.monotonic() + _RETRY
        except (BrokerError, OSError) as error:
            reason, retry = str(error), time.monotonic() + _RETRY
        peer.identification = _Search(groups, engines, registry.places, retry, reason)


def why_unidentified(peer: Peer) -> str | None:
    """Return why it is not known in which container the peer is; None when everything could be asked."""
    last = peer.identification
    return last.reason or None if isinstance(last, _Search) and peer.workload() is None else None


def _says_as_much(found: Workload, known: Workload) -> bool:
    """Return whether `found` is a container inside `known`, or the same one with no name less."""
    return found.depth > known.depth or (found.depth == known.depth and set(known.names) <= set(found.names))


def _groups(process: Process) -> dict[str, str]:
    try:
        return process.cgroups()
    except OSError:
        return {}
