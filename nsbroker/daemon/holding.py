"""The verbs of held namespaces: Create, Hold, Release, ListHeld."""

from collections.abc import Sequence

import trio

from nsbroker.daemon.audit import Audit
from nsbroker.daemon.call import Answer, Caller, Stream, checked_types
from nsbroker.daemon.held import Held, Holder, is_held_name
from nsbroker.daemon.inquiry import Inquiry
from nsbroker.daemon.limits import Ledger
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.policy import Grants
from nsbroker.daemon.resolve import Pinned
from nsbroker.errors import InvalidParameter, InvalidType, NoSuchTarget, PermissionDenied
from nsbroker.identity import NamespaceType
from nsbroker.interface import (
    CreateReply,
    CreateRequest,
    HeldDescription,
    HoldReply,
    ListHeldReply,
    OpenedNamespace,
    ReleaseRequest,
)
from nsbroker.namespace import Namespace
from nsbroker.varlink import service


class Holding:
    """Answers calls about what `holder` holds."""

    def __init__(self, holder: Holder, ledger: Ledger, audit: Audit) -> None:
        self._holder = holder
        self._ledger = ledger
        self._audit = audit

    async def create(self, caller: Caller, grants: Grants, request: CreateRequest) -> Answer:
        """New namespaces; held, when they get a name.  Without one they are the caller's own, as long as it has them open."""
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
            self._ledger.check(caller.lease, len(kinds))
            if name is not None:
                self._holder.check(name, peer.uid, len(kinds))
            for kind in kinds:
                made.append(await trio.to_thread.run_sync(_create, kind))  # noqa: PERF401 - what was made must be known
            self._audit.record(peer, "Create", said, "allowed", rule=verdict.rule, namespaces=made)
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

    async def hold(self, caller: Caller, inquiry: Inquiry, grants: Grants, pinned: Pinned, name: str) -> Answer:
        """Hold what `inquiry` asked for, and what `pinned` (taken) is.  The inquiry is entered by whoever calls."""
        opened: list[Namespace] = []
        try:
            held_name = (f"name:{_checked_name(name)}",)
            allowed = inquiry.judge(pinned).allowed and grants.verdict(held_name, inquiry.types or (), own=False).allowed
            if not allowed:
                raise PermissionDenied
            self._holder.check(name, caller.peer.uid, len(inquiry.types or ()))
            for kind in inquiry.types or ():
                opened.append(pinned.open(kind))  # noqa: PERF401 - what was opened before a failure must be known
            pinned.see_unchanged()
            inquiry.succeed(opened)
            await self._holder.hold(name, caller.peer.uid, opened)
        finally:
            pinned.close()
            for space in opened:
                space.close()
        return Answer(HoldReply(self._holder.durable))

    def release(self, caller: Caller, grants: Grants, request: ReleaseRequest) -> Answer:
        """Let go of a name: for who holds it, and for root."""
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

    async def listed(self, peer: Peer, grants: Grants) -> Stream:
        """What the peer holds itself, or may open."""
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
