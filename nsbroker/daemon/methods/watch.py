"""The method Watch: list the namespaces that exist, and then report changes."""

import contextlib
import math
from collections.abc import AsyncGenerator, Iterable, Sequence

import trio

from nsbroker.daemon.context import Context
from nsbroker.daemon.discovery.change_detector import ChangeDetector
from nsbroker.daemon.discovery.scan_result import TYPES
from nsbroker.daemon.discovery.scanner import Scanner
from nsbroker.daemon.discovery.view import View
from nsbroker.daemon.discovery.views import Views
from nsbroker.daemon.limits.connections import ConnectionCharge
from nsbroker.daemon.limits.namespace_closing import slow_fds
from nsbroker.daemon.methods.call import Caller, Reply, ReplyStream, check_more, validate_types
from nsbroker.daemon.methods.watched_open import WatchedOpen
from nsbroker.errors import InvalidParameter, QuotaExceeded
from nsbroker.linux.socket_options import unread_bytes
from nsbroker.model.description import NamespaceDescription, WatchEvent
from nsbroker.model.identity import NamespaceType, format_id
from nsbroker.protocol.messages import WatchReply, WatchRequest
from nsbroker.varlink.connection import IncomingCall

_PER_USER = 16
# With more unread bytes than this, no further event is sent until the caller has read some.  A caller for whom one round of events
# had to wait longer than _BEHIND seconds is sent MISSED.
_UNREAD_MAX = 65536
_BEHIND = 1.0
_PAUSE = 0.05
# Seconds until a second scan for namespaces that seem to be gone.
_AGAIN = 0.15

_Key = tuple[str, int | None]


class WatchMethod:
    """Answers calls to Watch."""

    def __init__(self, context: Context, scanner: Scanner, views: Views) -> None:
        self._context = context
        self._scanner = scanner
        self._views = views
        self._opener = WatchedOpen(context)
        self._detector = ChangeDetector()
        self._watches: dict[int, int] = {}

    def watch(self, caller: Caller, call: IncomingCall, request: WatchRequest) -> ReplyStream:
        """Stream events until the caller hangs up."""
        check_more(call)
        types = validate_types(request.types) or TYPES
        opened = validate_types(request.open, "open") or ()
        if not set(opened) <= set(types):
            raise InvalidParameter("open")
        self._context.audit.record(caller.peer, "Watch", "*", "allowed", wanted=" ".join(request.types or ()))
        return self._stream_events(caller, call, types, opened)

    async def _stream_events(
        self, caller: Caller, call: IncomingCall, types: Sequence[NamespaceType], opened: Sequence[NamespaceType]
    ) -> ReplyStream:
        uid = caller.peer.user
        if self._watches.get(uid, 0) >= _PER_USER:
            raise QuotaExceeded("watches of one user")
        self._watches[uid] = self._watches.get(uid, 0) + 1
        try:
            with self._detector, self._scanner.following():
                async with contextlib.aclosing(self._events(caller, types, bool(opened))) as events:
                    async for event, description in events:
                        fds: list[int] = []
                        if description is not None and description.type in opened and event is not WatchEvent.GONE:
                            fds = await self._open(caller, call, description)
                        slow = slow_fds(fds, (description.type,)) if description is not None else ()
                        reply = WatchReply(event, description, 0 if fds else None)
                        yield Reply(reply, fds, continues=True, slow_fds=slow)
        finally:
            self._watches[uid] -= 1
            if not self._watches[uid]:
                del self._watches[uid]

    async def _open(self, caller: Caller, call: IncomingCall, description: NamespaceDescription) -> list[int]:
        """Return an fd (the caller's) of the namespace, or none when it is gone or may not be opened."""
        while True:
            try:
                ns = await self._opener.open(caller, call, description)
            except QuotaExceeded:
                # A call would be refused, but an event waits.  Another connection of the user may have taken the room.
                await trio.sleep(_PAUSE)
            else:
                return [] if ns is None else [ns.detach()]

    async def _events(
        self, caller: Caller, types: Sequence[NamespaceType], hands_over: bool
    ) -> AsyncGenerator[tuple[WatchEvent, NamespaceDescription | None], None]:
        known: dict[_Key, NamespaceDescription] = {}
        missing: set[_Key] = set()
        first = True
        while True:
            seen, behind = self._detector.number, 0.0
            # The restriction of the connection cannot change meanwhile: a connection's calls are answered one after the other,
            # and nothing that comes after a Watch is answered.
            view = await self._views.view(caller.peer, caller.grants(self._context.policy), types, quick=True)
            now = _ids_by_key(view, known)
            _complete_keys(known, now)
            # A scan can miss a namespace that is passed from one short-lived process to the next.  It counts as gone only when
            # two scans in a row did not find it.
            unseen = known.keys() - now.keys()
            for key in [key for key in known if key in unseen & missing]:
                behind += await self._wait_for_reader(caller.charge, hands_over)
                yield WatchEvent.GONE, known.pop(key)
            missing = unseen - missing
            new = {ns_id: key for key, ns_id in now.items() if key not in known}
            async with contextlib.aclosing(self._views.descriptions(view, list(new))) as descriptions:
                async for description in descriptions:
                    known[new[format_id(description.type, description.inode)]] = description
                    behind += await self._wait_for_reader(caller.charge, hands_over)
                    yield WatchEvent.PRESENT if first else WatchEvent.ADDED, description
            del view, now, new
            if first:
                first = False
                yield WatchEvent.READY, None
            behind += await self._wait_for_reader(caller.charge, hands_over)
            if behind > _BEHIND:
                yield WatchEvent.MISSED, None
            # When a rule ends, the caller may see less from that moment on.
            pause = min(_AGAIN if missing else math.inf, self._context.policy.seconds_to_next_end())
            with trio.move_on_after(pause):
                await self._detector.wait(seen, self._scanner.took)

    async def _wait_for_reader(self, charge: ConnectionCharge, hands_over: bool) -> float:
        """Wait until the caller has read most of what it was sent, and return how many seconds that took.

        With `hands_over`, also wait until it may be sent another descriptor.
        """
        began = trio.current_time()
        # The kernel reports no event for this.
        while unread_bytes(charge.sock) > _UNREAD_MAX or (hands_over and not self._has_room(charge)):
            await trio.sleep(_PAUSE)
        return trio.current_time() - began

    def _has_room(self, charge: ConnectionCharge) -> bool:
        try:
            self._context.users.check(charge, 1)
        except QuotaExceeded:
            return False
        return not charge.is_full()


def _ids_by_key(view: View, known: Iterable[_Key]) -> dict[_Key, str]:
    """Return the ids of the namespaces in `view` by their keys, which tell namespaces apart.

    If a namespace ended before the rest of its key could be read, it is taken for the known one with the same id.
    """
    before = {ns_id: (ns_id, number) for ns_id, number in known}
    return {key if key[1] is not None else before.get(ns_id, key): ns_id for ns_id in view.ids() for key in [view.key(ns_id)]}


def _complete_keys(known: dict[_Key, NamespaceDescription], now: Iterable[_Key]) -> None:
    """Complete the keys of known namespaces whose number could not be read before, and can be by now: they are not new."""
    for key in now:
        ns_id, number = key
        if number is not None and key not in known and (ns_id, None) in known:
            known[key] = known.pop((ns_id, None))
