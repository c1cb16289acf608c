"""The verbs of held namespaces: Create, Hold, Release, ListHeld."""

import errno
import os
from collections.abc import Iterable, Sequence

import trio

from nsbroker.daemon.context import Parts
from nsbroker.daemon.methods.authorization import Inquiry, inquire
from nsbroker.daemon.methods.call import Answer, Caller, Later, Stream, checked_types, see_more
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.policy.grants import Grants
from nsbroker.daemon.policy.permission import Creation, Holding, Permission
from nsbroker.daemon.targets.held_store import Held, is_held_name
from nsbroker.errors import InvalidParameter, InvalidType, NameTaken, NoSuchTarget, PermissionDenied, QuotaExceeded
from nsbroker.linux.credentials import Credentials
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace, creation
from nsbroker.namespace.opening import is_network_name
from nsbroker.protocol.messages import (
    CreateReply,
    CreateRequest,
    HeldDescription,
    HoldReply,
    HoldRequest,
    ListHeldReply,
    OpenedNamespace,
    ReleaseRequest,
)
from nsbroker.varlink import service
from nsbroker.varlink.connection import IncomingCall

Types = tuple[NamespaceType, ...] | None


class HeldMethods:
    """Answers calls about what the broker holds."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._holder = parts.holder
        self._audit = parts.audit
        self._created = parts.created

    def create(self, caller: Caller, call: IncomingCall, request: CreateRequest) -> Later:
        """New namespaces; held, when they get a name.  Without one they are the caller's own, as long as it has them open."""
        call.take_fds()
        return self._create(caller, self._parts.policy.grants(caller.peer), request)

    async def _create(self, caller: Caller, grants: Grants, request: CreateRequest) -> Answer:
        peer, name = caller.peer, request.name
        kinds = checked_types(request.types) or ()
        said = f"name:{_checked_name(name)}" if name is not None else "self"
        wanted: list[Permission] = [Creation(kind) for kind in kinds]
        if name is not None:
            wanted += map(Holding, kinds)
        verdict = grants.verdict((said,), tuple(wanted), own=name is None and not peer.anonymous)
        wants = " ".join(map(str, wanted))
        if not verdict.allowed:
            self._audit.record(peer, "Create", said, "denied", wanted=wants)
            raise PermissionDenied
        made: list[Namespace] = []
        try:
            self._parts.users.check(caller.charge, len(kinds))
            if name is not None:
                self._check_name(name)
                self._holder.check(name, peer.uid, len(kinds))
            self._created.check(peer.user, len(kinds))
            for kind in kinds:
                made.append(await trio.to_thread.run_sync(_create, kind, peer.maker.credentials))  # noqa: PERF401 - what was made must be known
            self._created.add(peer.user, made)
            self._audit.record(peer, "Create", said, "allowed", rule=verdict.rule, namespaces=made)
            await self._audit.settle(peer)
            if name is not None:
                await self._holder.hold(name, peer.uid, made)
        except BaseException as error:
            for space in made:
                space.close()
            if isinstance(error, Exception) and not isinstance(error, PermissionDenied):
                self._audit.record(
                    peer, "Create", said, "failed", rule=verdict.rule, wanted=wants, error=f"{type(error).__name__}: {error}"
                )
            raise
        opened = [OpenedNamespace(space.type, space.device, space.inode, index) for index, space in enumerate(made)]
        return Answer(CreateReply(opened, name is not None and self._holder.durable), [space.detach() for space in made])

    @staticmethod
    def _check_name(name: str, spaces: Iterable[Namespace] = ()) -> None:
        """Check that nothing else has the name: `ip netns` comes first whenever it is asked for, and when what has it there
        goes, somebody else's namespace must not take its place.  `spaces` are what shall be held.  Raises NameTaken.
        """
        if is_network_name(name):
            with Namespace.from_name(name) as found:
                if found not in spaces:
                    raise NameTaken(name)

    def hold(self, caller: Caller, call: IncomingCall, request: HoldRequest) -> Later:
        """Hold namespaces of a target."""
        types = checked_types(request.types)
        # Read before anything is awaited: a reload in between must not mix two policies.
        grants = self._parts.policy.grants(caller.peer)
        inquiry = inquire(self._parts, "Hold", caller, call, request.target, types)
        return self._hold(caller, grants, inquiry, types, request.name)

    async def _hold(self, caller: Caller, grants: Grants, inquiry: Inquiry, types: Types, name: str) -> Answer:
        with inquiry:
            return await self._hold_asked(caller, grants, inquiry, types, name)

    async def _hold_asked(self, caller: Caller, grants: Grants, inquiry: Inquiry, types: Types, name: str) -> Answer:
        opened: list[Namespace] = []
        pinned = await inquiry.pin()
        try:
            wanted = pinned.types() if types is None else types
            held_name = (f"name:{_checked_name(name)}",)
            if not (inquiry.judge(pinned).allowed and grants.verdict(held_name, tuple(map(Holding, wanted)), own=False).allowed):
                raise PermissionDenied
            self._holder.check(name, caller.peer.uid, len(wanted))
            opened = inquiry.open(pinned, wanted)
            self._check_name(name, opened)
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
        if held is not None and (peer.owns(held.uid) or peer.owns(0)):
            self._audit.record(peer, "Release", said, "allowed", namespaces=held.spaces.values())
            self._holder.release(request.name)
            return Answer(service.Nothing())
        if held is None and grants.is_named((said,)):
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
        own = peer.owns(held.uid)
        types = grants.types_of_held(f"name:{held.name}", own=own)
        return [
            HeldDescription(held.name, held.uid, kind, space.inode, self._holder.durable)
            for kind, space in sorted(held.spaces.items())
            if own or kind in types
        ]


def _checked_name(name: str) -> str:
    if not is_held_name(name):
        raise InvalidParameter("name")
    return name


def _create(kind: NamespaceType, user: Credentials) -> Namespace:
    try:
        fd = creation.create(kind, user)
    except InvalidType as error:
        raise InvalidParameter("types") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise QuotaExceeded(f"user.max_{kind}_namespaces of the kernel") from error
        raise
    try:
        return Namespace(fd, kind)
    except BaseException:
        os.close(fd)
        raise
