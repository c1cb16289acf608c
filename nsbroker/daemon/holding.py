"""The verbs of held namespaces: Create, Hold, Release, ListHeld."""

from collections.abc import Sequence

import trio

from nsbroker.daemon.call import Answer, Caller, Later, Stream, checked_types, see_more
from nsbroker.daemon.held import Held, is_held_name
from nsbroker.daemon.inquiry import Inquiry, inquire
from nsbroker.daemon.parts import Parts
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.policy import Grants
from nsbroker.errors import InvalidParameter, InvalidType, NoSuchTarget, PermissionDenied
from nsbroker.identity import NamespaceType
from nsbroker.interface import (
    CreateReply,
    CreateRequest,
    HeldDescription,
    HoldReply,
    HoldRequest,
    ListHeldReply,
    OpenedNamespace,
    ReleaseRequest,
)
from nsbroker.namespace import Namespace
from nsbroker.varlink import service
from nsbroker.varlink.connection import IncomingCall


class Holding:
    """Answers calls about what the broker holds."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._holder = parts.holder
        self._audit = parts.audit

    def create(self, caller: Caller, call: IncomingCall, request: CreateRequest) -> Later:
        """New namespaces; held, when they get a name.  Without one they are the caller's own, as long as it has them open."""
        call.take_fds()
        return self._create(caller, self._parts.policy.grants(caller.peer), request)

    async def _create(self, caller: Caller, grants: Grants, request: CreateRequest) -> Answer:
        peer, name = caller.peer, request.name
        kinds = checked_types(request.types) or ()
        said = f"name:{_checked_name(name)}" if name is not None else "self"
        names = (said,) if name is not None else ()
        verdict = grants.verdict(names, kinds, own=name is None and not peer.anonymous)
        if not verdict.allowed:
            self._audit.record(peer, "Create", said, "denied")
            raise PermissionDenied
        made: list[Namespace] = []
        try:
            self._parts.users.check(caller.charge, len(kinds))
            if name is not None:
                self._holder.check(name, peer.uid, len(kinds))
            for kind in kinds:
                made.append(await trio.to_thread.run_sync(_create, kind))  # noqa: PERF401 - what was made must be known
            self._audit.record(peer, "Create", said, "allowed", rule=verdict.rule, namespaces=made)
            await self._audit.settle(peer)
            if name is not None:
                await self._holder.hold(name, peer.uid, made)
        except BaseException as error:
            for space in made:
                space.close()
            if isinstance(error, Exception) and not isinstance(error, PermissionDenied):
                self._audit.record(peer, "Create", said, "failed", rule=verdict.rule, error=f"{type(error).__name__}: {error}")
            raise
        opened = [OpenedNamespace(space.type, space.device, space.inode, index) for index, space in enumerate(made)]
        return Answer(CreateReply(opened, name is not None and self._holder.durable), [space.detach() for space in made])

    def hold(self, caller: Caller, call: IncomingCall, request: HoldRequest) -> Later:
        """Hold namespaces of a target."""
        types = checked_types(request.types)
        inquiry = inquire(self._parts, "Hold", caller, call, request.target, types)
        return self._hold(caller, inquiry, types, request.name)

    async def _hold(self, caller: Caller, inquiry: Inquiry, types: tuple[NamespaceType, ...] | None, name: str) -> Answer:
        with inquiry:
            return await self._hold_asked(caller, inquiry, types, name)

    async def _hold_asked(self, caller: Caller, inquiry: Inquiry, types: tuple[NamespaceType, ...] | None, name: str) -> Answer:
        opened: list[Namespace] = []
        pinned = await inquiry.pin()
        try:
            wanted = pinned.types() if types is None else types
            held_name = (f"name:{_checked_name(name)}",)
            grants = self._parts.policy.grants(caller.peer)
            if not (inquiry.judge(pinned).allowed and grants.verdict(held_name, wanted, own=False).allowed):
                raise PermissionDenied
            self._holder.check(name, caller.peer.uid, len(wanted))
            for kind in wanted:
                opened.append(pinned.open(kind))  # noqa: PERF401 - what was opened before a failure must be known
            pinned.see_unchanged()
            inquiry.succeed(opened)
            await self._audit.settle(caller.peer)
            await self._holder.hold(name, caller.peer.uid, opened)
        finally:
            pinned.close()
            for space in opened:
                space.close()
        return Answer(HoldReply(self._holder.durable))

    def release(self, caller: Caller, call: IncomingCall, request: ReleaseRequest) -> Answer:
        """Let go of a name: for who holds it, and for root."""
        call.take_fds()
        grants = self._parts.policy.grants(caller.peer)
        peer, said = caller.peer, f"name:{_checked_name(request.name)}"
        held = self._holder.find(request.name)
        if held is not None and not peer.anonymous and peer.uid in (held.uid, 0):
            self._audit.record(peer, "Release", said, "allowed", namespaces=held.spaces.values())
            self._holder.release(request.name)
            return Answer(service.Nothing())
        if held is None and grants.names((said,)):
            error = NoSuchTarget(said, "nothing is held under that name (`nsbroker held` lists what is)")
            self._audit.record(peer, "Release", said, "failed", error=str(error))
            raise error
        self._audit.record(peer, "Release", said, "denied")
        raise PermissionDenied

    def list(self, caller: Caller, call: IncomingCall, request: service.Nothing) -> Stream:
        """What the peer holds itself, or may open."""
        see_more(call)
        return self._listed(caller.peer, self._parts.policy.grants(caller.peer))

    async def _listed(self, peer: Peer, grants: Grants) -> Stream:
        self._audit.record(peer, "ListHeld", "name:*", "allowed")
        for description in [one for held in self._holder for one in self._describe(held, peer, grants)]:
            yield Answer(ListHeldReply(description), continues=True)
        yield Answer(ListHeldReply())

    def _describe(self, held: Held, peer: Peer, grants: Grants) -> Sequence[HeldDescription]:
        own = not peer.anonymous and held.uid == peer.uid
        types = grants.types((f"name:{held.name}",), own=own)
        return [
            HeldDescription(held.name, held.uid, kind, space.inode, self._holder.durable)
            for kind, space in sorted(held.spaces.items())
            if own or kind in types
        ]


def _checked_name(name: str) -> str:
    if not is_held_name(name):
        raise InvalidParameter("name")
    return name


def _create(kind: NamespaceType) -> Namespace:
    try:
        return Namespace.create(kind)
    except InvalidType as error:
        raise InvalidParameter("types") from error
