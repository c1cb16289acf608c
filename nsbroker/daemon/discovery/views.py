"""Make views, each of what one peer may see of the host now, and describe the namespaces in a view."""

import contextlib
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import NamedTuple

import trio

from nsbroker.daemon.context import Context
from nsbroker.daemon.discovery.command_lines import CommandLines
from nsbroker.daemon.discovery.scanner import Scanner
from nsbroker.daemon.discovery.view import View
from nsbroker.daemon.discovery.visibility import NamedProcess, openable_types, visibility_for
from nsbroker.daemon.engines.container import Container
from nsbroker.daemon.limits.concurrency import UserCapacityLimiter
from nsbroker.daemon.limits.users import ROOT
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.policy.grants import Grants
from nsbroker.daemon.targets.pinned import PinnedContainer
from nsbroker.daemon.targets.resolve import engine_query
from nsbroker.errors import BrokerError, EngineUnavailable, TimedOut
from nsbroker.linux.descriptors import is_out_of_files
from nsbroker.linux.process import Process
from nsbroker.model.description import LeadingProcess, NamespaceDescription
from nsbroker.model.identity import NamespaceType
from nsbroker.model.target import Target

# Descriptions are made on a thread, in batches of this size: each one looks at a process.
_BATCH = 128
# To hide timing, callers with a limited view get their reply at a multiple of this, in seconds, after their call.
_TICK = 0.25
_UNITS_MAX = 64
_PER_USER = 2
_THREADS_MAX = 2
_DEADLINE = 10.0
# At most this many containers are looked at in one pass of the event loop.
_IN_A_ROW = 8


class _Openable(NamedTuple):
    """What the peer may open of a container, and the inode number of the pidfd of its first process when that was proved."""

    types: frozenset[NamespaceType]
    inode: int


class Views:
    """Makes views, at most two at a time for each user."""

    def __init__(self, context: Context, scanner: Scanner) -> None:
        self._context = context
        self._scanner = scanner
        self._limiter = UserCapacityLimiter(_PER_USER)
        self._threads = trio.CapacityLimiter(_THREADS_MAX)
        self._command_lines = CommandLines()

    async def view(self, peer: Peer, grants: Grants, ns_types: Sequence[NamespaceType], *, quick: bool = False) -> View:
        """Return what `peer`, who has `grants`, may see now.  `quick`: use a quick scan.  Raises TimedOut, QuotaExceeded."""
        # This caches the peer's PID namespace here, so that the threads do not look it up.
        peer.number_of(peer.pid)
        asked = trio.current_time()
        async with self._limiter.of(peer.user):
            containers = await self._find_openable_containers(grants, peer)
            units = await self._find_named_units(grants, peer.user) if grants.has_kind("unit") else {}
            scan = await (self._scanner.quick() if quick else self._scanner.fresh(patient=not peer.owns(ROOT)))

            def make() -> View:
                # A scan knows processes only by their numbers.  It saw these if they have kept them until now.
                openable = {container: one.types for container, one in containers.items() if _has_number(one.inode, container.pid)}
                named = [unit for unit, inode in units.items() if _has_number(inode, unit.pid)]
                return View(scan, visibility_for(grants, peer, openable, named, self._context.held_store), ns_types)

            try:
                view = await self._context.threads.run(peer.user, "list", _DEADLINE, make, lambda _: None)
            except trio.TooSlowError as error:
                raise TimedOut("a process blocked reading its /proc entry for 10 seconds") from error
        if not grants.everywhere().issuperset(ns_types):
            ticks = math.ceil((trio.current_time() - asked) / _TICK)
            await trio.sleep_until(asked + ticks * _TICK)
        return view

    async def descriptions(self, view: View, ns_ids: Sequence[str]) -> AsyncGenerator[NamespaceDescription, None]:
        """Yield the descriptions of these namespaces of a view."""
        for start in range(0, len(ns_ids), _BATCH):
            batch = ns_ids[start : start + _BATCH]
            leaders = {process.facts.pid: process for process in view.leaders(batch)}
            commands = await self._command_lines.read(leaders.values())
            for description in await trio.to_thread.run_sync(_describe, view, batch, commands, limiter=self._threads):
                yield description

    async def _find_openable_containers(self, grants: Grants, peer: Peer) -> dict[Container, _Openable]:
        """Return the containers of which the peer may open something."""
        engines = self._context.engines
        found = {}
        for number, container in enumerate((await engines.list(engine_query(grants, peer))).containers):
            if number % _IN_A_ROW == _IN_A_ROW - 1:
                # Only what can block runs on a thread, and a host can have thousands of containers.
                await trio.lowlevel.checkpoint()
            with contextlib.suppress(BrokerError, OSError):
                process = await engines.pin(container, peer.user)
                with contextlib.closing(PinnedContainer(container, process)) as pinned:
                    openable = _Openable(openable_types(pinned, grants, peer), process.inode())
                if openable.types:
                    found[container] = openable
        return found

    async def _find_named_units(self, grants: Grants, user: int) -> dict[NamedProcess, int]:
        """Return the main processes of the units that a rule names, and the inodes of their pidfds; at most _UNITS_MAX."""
        from nsbroker.daemon.targets import units  # only on this path: D-Bus takes a while to load

        deadline = self._context.engines.deadline
        latest = trio.current_time() + _DEADLINE
        found: dict[NamedProcess, int] = {}
        # Without systemd there are no units.
        with contextlib.suppress(EngineUnavailable):
            for name in await units.running(deadline, user):
                if len(found) == _UNITS_MAX or trio.current_time() > latest:
                    break
                if not grants.is_named((f"unit:{name}",)):
                    continue
                with contextlib.suppress(BrokerError):
                    process = await units.find(Target.unit(name), deadline, user, self._context.threads)
                    found[NamedProcess(process.pid, f"unit:{name}")] = process.inode()
                    process.close()
        return found


def _has_number(inode: int, pid: int) -> bool:
    """Return whether the process whose pidfds have this inode number has the number `pid` now.

    Before Linux 6.9, where all pidfds have the same: whether some process has it.
    """
    try:
        with Process.open(pid) as process:
            return process.inode() == inode
    except OSError as error:
        if is_out_of_files(error):
            raise
        return False


def _describe(view: View, ns_ids: Sequence[str], commands: Mapping[int, LeadingProcess]) -> list[NamespaceDescription]:
    return [view.describe(ns_id, commands) for ns_id in ns_ids]
