"""Finding out in which container a caller is, before its call is answered, as far as rules are for containers."""

import math
import time
from collections.abc import Mapping
from typing import NamedTuple

from nsbroker.daemon.context import Context
from nsbroker.daemon.engines.query import EngineQuery
from nsbroker.daemon.peer import Peer
from nsbroker.errors import BrokerError
from nsbroker.linux.process import Process

# Seconds after which an engine that did not answer is asked again for the same peer.
_RETRY = 1.0


class _Search(NamedTuple):
    """The last search for the container of a peer that was in these control groups.  Without a result it is repeated after `retry`.

    `reason` says why an engine could not be asked.
    """

    groups: Mapping[str, str]
    engines: frozenset[str]
    retry: float
    reason: str


class Identification:
    """Remembers in each peer which container it is in, for as long as that is true."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def is_due(self, peer: Peer) -> bool:
        """Return whether `identify` must be awaited before the peer's next call."""
        engines = self._context.policy.workload_engines
        if not engines or peer.workload() is not None:
            return False
        process, last = peer.process(), peer.identification
        if process is None:
            return False
        if not isinstance(last, _Search) or last.engines != engines or time.monotonic() > last.retry:
            return True
        return _groups(process) != last.groups

    async def identify(self, peer: Peer) -> None:
        """Look for the container that the peer is in."""
        engines = self._context.policy.workload_engines
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
            workload, failures = await self._context.engines.find_workload(process, query)
            peer.set_workload(workload)
            if failures:
                reason = "; ".join(f"{failure.engine}: {failure.reason}" for failure in failures)
                retry = time.monotonic() + _RETRY
        except (BrokerError, OSError) as error:
            reason, retry = str(error), time.monotonic() + _RETRY
        peer.identification = _Search(groups, engines, retry, reason)


def why_unidentified(peer: Peer) -> str | None:
    """Return why it is not known in which container the peer is; None when everything could be asked."""
    last = peer.identification
    return last.reason or None if isinstance(last, _Search) and peer.workload() is None else None


def _groups(process: Process) -> dict[str, str]:
    try:
        return process.cgroups()
    except OSError:
        return {}
