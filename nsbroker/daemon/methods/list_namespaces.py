"""The verb List, and what a peer may see of a fresh pass."""

import contextlib
import math
from collections.abc import AsyncGenerator, Mapping, Sequence

import trio

from nsbroker.daemon.context import Parts
from nsbroker.daemon.discovery.command_lines import Commands
from nsbroker.daemon.discovery.scan_result import TYPES
from nsbroker.daemon.discovery.scanner import Passes
from nsbroker.daemon.discovery.view import Named, View
from nsbroker.daemon.discovery.visibility import sight_of, types_of
from nsbroker.daemon.engines.container import Container
from nsbroker.daemon.limits.concurrency import UserCapacityLimiter
from nsbroker.daemon.limits.users import ROOT
from nsbroker.daemon.methods.authorization import Inquiry, inquire
from nsbroker.daemon.methods.call import Answer, Caller, Stream, checked_types, see_more
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.policy.grants import Grants
from nsbroker.errors import BrokerError, EngineUnavailable, ExpectedMore, PermissionDenied, QuotaExceeded
from nsbroker.model.description import LeadingProcess, NamespaceDescription
from nsbroker.model.identity import NamespaceType
from nsbroker.model.target import Target
from nsbroker.protocol.messages import ListReply, ListRequest
from nsbroker.varlink.connection import IncomingCall

# Descriptions are made so many at a time, on a thread: each takes a look at a process.
_AT_A_TIME = 128
# Whoever may not see everything is answered at full ticks after the question, so that the time tells little of the rest.
_TICK = 0.25
_UNITS_MAX = 64
# Views under way: of one user, and threads that make them and describe what is in them.
_OF_A_USER = 2
_THREADS = 2
_DEADLINE = 10.0


class Listing:
    """Answers calls to List, and gives views to Watch."""

    def __init__(self, parts: Parts, passes: Passes) -> None:
        self._parts = parts
        self._passes = passes
        self._turns = UserCapacityLimiter(_OF_A_USER)
        self._threads = trio.CapacityLimiter(_THREADS)
        self._commands = Commands()

    def list(self, caller: Caller, call: IncomingCall, request: ListRequest) -> Stream:
        """The namespaces that the caller may open."""
        types = checked_types(request.types)
        if request.target is None:
            see_more(call)
            self._parts.audit.record(caller.peer, "List", "*", "allowed", wanted=" ".join(types or ()))
            return self._listed(caller, types or TYPES, None)
        if not call.more:
            raise ExpectedMore
        inquiry = inquire(self._parts, "List", caller, call, request.target, types, some=True)
        return self._of_target(caller, inquiry)

    async def _of_target(self, caller: Caller, inquiry: Inquiry) -> Stream:
        with inquiry:
            links = await _links_of(inquiry)
        types = [NamespaceType(link.partition(":")[0]) for link in links]
        async with contextlib.aclosing(self._listed(caller, types, links)) as answers:
            async for answer in answers:
                yield answer

    async def _listed(self, caller: Caller, types: Sequence[NamespaceType], only: Sequence[str] | None) -> Stream:
        view = await self.view(caller, types)
        links = [link for link in view.links() if only is None or link in only]
        async with contextlib.aclosing(self.described(view, links)) as descriptions:
            async for description in descriptions:
                yield Answer(ListReply(description), continues=True)
        yield Answer(ListReply())

    async def view(self, caller: Caller, types: Sequence[NamespaceType], *, quick: bool = False) -> View:
        """What the caller may see now; `quick` as in `Passes`."""
        peer = caller.peer
        # Looked up here once, not on the threads.
        peer.number_of(peer.pid)
        grants = self._parts.policy.grants(peer)
        asked = trio.current_time()
        async with self._turns.of(peer.user):
            containers = await self._containers(grants, peer)
            units = await self._units(grants, peer.user) if grants.has_kind("unit") else []
            census = await (self._passes.quick() if quick else self._passes.fresh(patient=not peer.owns(ROOT)))

            def make() -> View:
                return View(census, sight_of(grants, peer, containers, units, self._parts.holder), types)

            try:
                view = await self._parts.threads.run(peer.user, "list", _DEADLINE, make, lambda _: None)
            except trio.TooSlowError as error:
                raise QuotaExceeded("processes that do not let themselves be looked at") from error
        if not grants.everywhere().issuperset(types):
            ticks = math.ceil((trio.current_time() - asked) / _TICK)
            await trio.sleep_until(asked + ticks * _TICK)
        return view

    async def described(self, view: View, links: Sequence[str]) -> AsyncGenerator[NamespaceDescription, None]:
        """The descriptions of these namespaces."""
        for start in range(0, len(links), _AT_A_TIME):
            some = links[start : start + _AT_A_TIME]
            leaders = {member.facts.pid: member for member in view.leaders(some)}
            commands = await self._commands.of(leaders.values())
            for description in await trio.to_thread.run_sync(_describe, view, some, commands, limiter=self._threads):
                yield description

    async def _containers(self, grants: Grants, peer: Peer) -> dict[Container, frozenset[NamespaceType]]:
        """The containers of which the peer may open something, and what."""
        roster = self._parts.roster
        found = {}
        for container in (await roster.survey(grants.asker(peer))).containers:
            with contextlib.suppress(BrokerError, OSError):
                process = await roster.pin(container, peer.user)
                if types := types_of(container, process, grants, peer):
                    found[container] = types
        return found

    async def _units(self, grants: Grants, user: int) -> Sequence[Named]:
        """The main processes of the units that a rule names; of the first so many that have one."""
        from nsbroker.daemon.targets import units  # only on this path: D-Bus takes a while to load

        deadline = self._parts.roster.deadline
        latest = trio.current_time() + _DEADLINE
        found: list[Named] = []
        # Without systemd there are none.
        with contextlib.suppress(EngineUnavailable):
            for name in await units.running(deadline, user):
                if len(found) == _UNITS_MAX or trio.current_time() > latest:
                    break
                if not grants.is_named((f"unit:{name}",)):
                    continue
                with contextlib.suppress(BrokerError):
                    process = await units.find(Target.unit(name), deadline, user, self._parts.threads)
                    found.append(Named(process.pid, f"unit:{name}"))
                    process.close()
        return found


def _describe(view: View, links: Sequence[str], commands: Mapping[int, LeadingProcess]) -> list[NamespaceDescription]:
    return [view.describe(link, commands) for link in links]


async def _links_of(inquiry: Inquiry) -> list[str]:
    """The ids of the target's namespaces that the caller may open."""
    pinned = await inquiry.pin()
    try:
        verdict = inquiry.judge(pinned)
        allowed = [kind for kind, rule in zip(inquiry.wanted or (), verdict.rules, strict=True) if rule is not None]
        if not allowed:
            raise PermissionDenied
        inquiry.narrow(pinned, tuple(allowed))
        spaces = inquiry.open(pinned, [kind for kind in allowed if isinstance(kind, NamespaceType)])
        links = [str(space) for space in spaces]
        for space in spaces:
            space.close()
        pinned.see_unchanged()
        inquiry.succeed()
        return links
    finally:
        pinned.close()
