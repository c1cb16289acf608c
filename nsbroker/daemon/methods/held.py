"""The methods for held namespaces: Create, Hold, Release and ListHeld."""

import errno
import os
from collections.abc import Iterable, Sequence

import trio

from nsbroker.daemon.context import Context
from nsbroker.daemon.limits.concurrency import UserCapacityLimiter
from nsbroker.daemon.limits.namespace_closing import close_namespaces, slow_fds
from nsbroker.daemon.methods.authorization import Authorization, begin
from nsbroker.daemon.methods.call import Caller, PendingReply, Reply, ReplyStream, check_more, validate_types
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.policy.grants import Grants
from nsbroker.daemon.policy.permission import Creation, Holding, Permission
from nsbroker.daemon.targets.held_store import HeldEntry, is_held_name
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

# After this many held names, other tasks get their turn.
_IN_A_ROW = 8


class HeldMethods:
    """Answers calls to Create, Hold, Release and ListHeld."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._held_store = context.held_store
        self._audit = context.audit
        self._created = context.created
        self._creating = UserCapacityLimiter(1)
        self._closer = context.users.closer

    def create(self, caller: Caller, call: IncomingCall, request: CreateRequest) -> PendingReply:
        """Create namespaces.  With a name, the broker holds them; without one, they exist only as long as the caller uses them."""
        call.take_fds()
        if request.up and NamespaceType.NET not in request.types:
            raise InvalidParameter("up")
        return self._create(caller, caller.grants(self._context.policy), request)

    async def _create(self, caller: Caller, grants: Grants, request: CreateRequest) -> Reply:
        peer, name = caller.peer, request.name
        ns_types = validate_types(request.types) or ()
        target = f"name:{_validate_name(name)}" if name is not None else "self"
        wanted: list[Permission] = [Creation(ns_type) for ns_type in ns_types]
        if name is not None:
            wanted += map(Holding, ns_types)
        verdict = grants.verdict((target,), tuple(wanted), own=name is None and not peer.anonymous)
        wanted_text = " ".join(map(str, wanted))
        if not verdict.allowed or (name is not None and peer.anonymous):
            self._audit.record(peer, "Create", target, "denied", wanted=wanted_text)
            raise PermissionDenied
        made: list[Namespace] = []
        try:
            self._context.users.check(caller.charge, len(ns_types))
            if name is not None:
                self._check_name(name)
                self._held_store.check(name, peer.user, len(ns_types))
            # One at a time for each user: calls that are under way together must not all pass the check.
            async with self._creating.of(peer.user):
                self._created.check(peer.user, len(ns_types))
                for ns_type in ns_types:
                    up = bool(request.up) and ns_type is NamespaceType.NET
                    ns = await trio.to_thread.run_sync(_create_namespace, ns_type, peer.owner, up)
                    # Append each one at once: if a later one fails, those made so far must be closed.
                    made.append(ns)
                self._created.add(peer.user, made)
            self._audit.record(peer, "Create", target, "allowed", rule=verdict.rule, namespaces=made)
            await self._audit.settle(peer)
            if name is not None:
                await self._held_store.hold(name, peer.uid, made, self._closer, peer.user)
        except BaseException as error:
            close_namespaces(made, self._closer, peer.user)
            if isinstance(error, Exception) and not isinstance(error, PermissionDenied):
                self._audit.record(
                    peer,
                    "Create",
                    target,
                    "failed",
                    rule=verdict.rule,
                    wanted=wanted_text,
                    error=f"{type(error).__name__}: {error}",
                )
            raise
        opened = [OpenedNamespace(ns.type, ns.device, ns.inode, index) for index, ns in enumerate(made)]
        created = CreateReply(opened, name is not None and self._held_store.durable)
        fds = [ns.detach() for ns in made]
        return Reply(created, fds, slow_fds=slow_fds(fds, ns_types))

    @staticmethod
    def _check_name(name: str, namespaces: Iterable[Namespace] = ()) -> None:
        """Check that no network namespace of `ip netns` has the name, unless it is one of `namespaces`.  Raises NameTaken.

        A name of `ip netns` always comes first in lookups.  When it is deleted there, a namespace that somebody else holds under
        the same name must not take its place.
        """
        if is_network_name(name):
            with Namespace.from_name(name) as found:
                if found not in namespaces:
                    raise NameTaken(name)

    def hold(self, caller: Caller, call: IncomingCall, request: HoldRequest) -> PendingReply:
        """Hold namespaces of a target under a name."""
        types = validate_types(request.types)
        details = f"{' '.join(types) if types else 'every type'} as name:{_validate_name(request.name)}"
        if caller.peer.anonymous:
            # What is held belongs to a uid, and this one proves nothing.
            self._audit.record(caller.peer, "Hold", str(request.target.to_target()), "denied", wanted=details)
            raise PermissionDenied
        authorization = begin(self._context, "Hold", caller, call, request.target, types, details=details)
        return self._hold(caller, authorization, request.name)

    async def _hold(self, caller: Caller, authorization: Authorization, name: str) -> Reply:
        peer = caller.peer
        async with authorization:
            wanted = authorization.wanted_types()
            authorization.require((f"name:{name}",), tuple(map(Holding, wanted)))
            self._held_store.check(name, peer.user, len(wanted))
            opened = authorization.open()
            self._check_name(name, opened)
            # To hold a namespace is to hand it over, so the record must be written first.
            authorization.finish()
            await self._audit.settle(peer)
            await self._held_store.hold(name, peer.uid, opened, self._closer, peer.user)
        close_namespaces(opened, self._closer, peer.user)
        return Reply(HoldReply(self._held_store.durable))

    def release(self, caller: Caller, call: IncomingCall, request: ReleaseRequest) -> PendingReply:
        """Release what is held under a name.  Only the user for whom it is held, and root, may do so.

        A restricted connection may release only what it may hold.
        """
        call.take_fds()
        return self._release(caller, caller.grants(self._context.policy), _validate_name(request.name))

    async def _release(self, caller: Caller, grants: Grants, name: str) -> Reply:
        peer, target = caller.peer, f"name:{name}"
        held = self._held_store.find(name)
        may_release = held is not None and grants.may_release(target, held.namespaces)
        if held is not None and may_release and (peer.owns(held.uid) or peer.owns(0)):
            self._audit.record(peer, "Release", target, "allowed", namespaces=held.namespaces.values())
            # What cannot be recorded does not happen.
            await self._audit.settle(peer)
            # It is closed for the user who held it: when root releases it, that user's mounts must not delay what root closes.
            if self._held_store.release(held, self._closer):
                return Reply(service.Nothing())
            held = None
        if held is None and (may_release or grants.is_named((target,))):
            reason = "nothing is held under that name (`nsbroker list-held` lists what is held)"
            self._audit.record(peer, "Release", target, "failed", error=f"{target}: {reason}")
            raise NoSuchTarget(target, reason)
        self._audit.record(peer, "Release", target, "denied")
        raise PermissionDenied

    def list(self, caller: Caller, call: IncomingCall, request: service.Nothing) -> ReplyStream:
        """List the held namespaces that belong to the caller, or that it may open."""
        check_more(call)
        return self._stream_held(caller.peer, caller.grants(self._context.policy))

    async def _stream_held(self, peer: Peer, grants: Grants) -> ReplyStream:
        self._audit.record(peer, "ListHeld", "name:*", "allowed")
        descriptions: list[HeldDescription] = []
        for number, held in enumerate(self._held_store):
            if number % _IN_A_ROW == _IN_A_ROW - 1:
                await trio.lowlevel.checkpoint()
            descriptions += self._describe(held, peer, grants)
        for description in descriptions:
            yield Reply(ListHeldReply(description), continues=True)
        yield Reply(ListHeldReply())

    def _describe(self, held: HeldEntry, peer: Peer, grants: Grants) -> Sequence[HeldDescription]:
        own = peer.owns(held.uid)
        name = f"name:{held.name}"
        types = grants.types_of_held(name, own=own)
        return [
            HeldDescription(held.name, held.uid, ns_type, ns.inode, self._held_store.durable)
            for ns_type, ns in sorted(held.namespaces.items())
            if ns_type in types or (own and grants.may_release(name, (ns_type,)))
        ]


def _validate_name(name: str) -> str:
    if not is_held_name(name):
        raise InvalidParameter("name")
    return name


def _create_namespace(ns_type: NamespaceType, user: Credentials, up: bool) -> Namespace:
    try:
        fd = creation.create(ns_type, user, up=up)
    except InvalidType as error:
        raise InvalidParameter("types") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise QuotaExceeded(f"user.max_{ns_type}_namespaces of the kernel") from error
        raise
    try:
        return Namespace(fd, ns_type)
    except BaseException:
        os.close(fd)
        raise
