"""The verb Watch: what is there, and then what changes."""

import contextlib
import math
from collections.abc import AsyncGenerator, Iterable, Sequence

import trio

from nsbroker.daemon.context import Parts
from nsbroker.daemon.discovery.change_detector import Changes
from nsbroker.daemon.discovery.scan_result import TYPES
from nsbroker.daemon.discovery.scanner import Passes
from nsbroker.daemon.discovery.view import View
from nsbroker.daemon.limits.connections import ConnectionCharge
from nsbroker.daemon.methods.call import Answer, Caller, Stream, checked_types, see_more
from nsbroker.daemon.methods.list_namespaces import Listing
from nsbroker.errors import QuotaExceeded
from nsbroker.linux.socket_options import unread_bytes
from nsbroker.model.description import NamespaceDescription, WatchEvent
from nsbroker.model.identity import NamespaceType
from nsbroker.protocol.messages import WatchReply, WatchRequest
from nsbroker.varlink.connection import IncomingCall

_PER_USER = 16
# So much may lie unread with a caller before it has to catch up; one that is behind for longer has missed something.
_UNREAD_MAX = 65536
_BEHIND = 1.0
_PAUSE = 0.05
# Seconds until a second look at what seems to be gone.
_AGAIN = 0.15

_Key = tuple[str, int | None]


class Watching:
    """Answers calls to Watch."""

    def __init__(self, parts: Parts, passes: Passes, listing: Listing) -> None:
        self._parts = parts
        self._passes = passes
        self._listing = listing
        self._changes = Changes()
        self._watches: dict[int, int] = {}

    def watch(self, caller: Caller, call: IncomingCall, request: WatchRequest) -> Stream:
        """Events, until the caller hangs up."""
        see_more(call)
        types = checked_types(request.types)
        self._parts.audit.record(caller.peer, "Watch", "*", "allowed", wanted=" ".join(types or ()))
        return self._watched(caller, types or TYPES)

    async def _watched(self, caller: Caller, types: Sequence[NamespaceType]) -> Stream:
        uid = caller.peer.user
        if self._watches.get(uid, 0) >= _PER_USER:
            raise QuotaExceeded("watches of one user")
        self._watches[uid] = self._watches.get(uid, 0) + 1
        try:
            with self._changes, self._passes.following():
                async with contextlib.aclosing(self._events(caller, types)) as events:
                    async for event, description in events:
                        yield Answer(WatchReply(event, description), continues=True)
        finally:
            self._watches[uid] -= 1
            if not self._watches[uid]:
                del self._watches[uid]

    async def _events(
        self, caller: Caller, types: Sequence[NamespaceType]
    ) -> AsyncGenerator[tuple[WatchEvent, NamespaceDescription | None], None]:
        known: dict[_Key, NamespaceDescription] = {}
        missing: set[_Key] = set()
        first = True
        while True:
            seen, behind = self._changes.number, 0.0
            view = await self._listing.view(caller, types, quick=True)
            now = _keyed(view, known)
            # A pass can overlook what goes from one short-lived process to the next: gone is what two in a row do not see.
            unseen = known.keys() - now.keys()
            for key in [key for key in known if key in unseen & missing]:
                behind += await _caught_up(caller.charge)
                yield WatchEvent.GONE, known.pop(key)
            missing = unseen - missing
            new = {link: key for key, link in now.items() if key not in known}
            async with contextlib.aclosing(self._listing.described(view, list(new))) as descriptions:
                async for description in descriptions:
                    known[new[f"{description.type}:[{description.inode}]"]] = description
                    behind += await _caught_up(caller.charge)
                    yield WatchEvent.PRESENT if first else WatchEvent.ADDED, description
            del view, now, new
            if first:
                first = False
                yield WatchEvent.READY, None
            behind += await _caught_up(caller.charge)
            if behind > _BEHIND:
                yield WatchEvent.MISSED, None
            with trio.move_on_after(_AGAIN if missing else math.inf):
                await self._changes.wait(seen, self._passes.took)


def _keyed(view: View, known: Iterable[_Key]) -> dict[_Key, str]:
    """The namespaces that are there, by what tells them apart.  One that ended before it could be asked is taken for the one
    that had its number.
    """
    before = {link: (link, number) for link, number in known}
    return {key if key[1] is not None else before.get(link, key): link for link in view.links() for key in [view.key(link)]}


async def _caught_up(charge: ConnectionCharge) -> float:
    """Wait until the caller has read most of what it was sent; the seconds that it took."""
    began = trio.current_time()
    # The kernel has no event for it.
    while unread_bytes(charge.sock) > _UNREAD_MAX:
        await trio.sleep(_PAUSE)
    return trio.current_time() - began
