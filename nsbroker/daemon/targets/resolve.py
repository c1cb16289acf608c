"""Resolve a target: pin the process or the namespaces that it means, never a bare number.

The steps are: pin, look, open, look again.  Facts are read from what is pinned, and the verdict rests on those facts.  Namespaces
are opened from what is pinned, and `check_unchanged` then checks that the facts still hold.  Any error on the way is a refusal.
"""

import os
from collections.abc import Callable
from functools import partial

import trio

from nsbroker.daemon.engines.query import EngineQuery
from nsbroker.daemon.engines.registry import EngineRegistry
from nsbroker.daemon.limits.abandonable_threads import AbandonableThreads
from nsbroker.daemon.limits.namespace_closing import close_namespaces
from nsbroker.daemon.peer import Peer, why_without_process
from nsbroker.daemon.policy.grants import Grants
from nsbroker.daemon.targets.held_store import HeldStore
from nsbroker.daemon.targets.location_cache import LocationCache
from nsbroker.daemon.targets.pinned import Pinned, PinnedContainer, PinnedHeld, PinnedNamespace, PinnedPeer, PinnedProcess
from nsbroker.errors import (
    InvalidParameter,
    NoSuchTarget,
)
from nsbroker.linux.closing import Closer
from nsbroker.linux.openat2 import RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2
from nsbroker.linux.process import Process
from nsbroker.model.identity import NamespaceId
from nsbroker.model.target import Target, TargetKind
from nsbroker.namespace import Namespace, search
from nsbroker.namespace.opening import file_error, pin

_SLOW = frozenset((TargetKind.CONTAINER, TargetKind.NAMESPACE, TargetKind.PATH, TargetKind.UNIT))
# Seconds for the search for a namespace by its path or id.
_DEADLINE = 5.0


def engine_query(grants: Grants, peer: Peer) -> EngineQuery:
    """Return the query to engines on behalf of `peer`, who has `grants`."""
    with_rootless = not peer.anonymous and grants.allows_unnamed
    return EngineQuery(
        peer.user, peer.uid, peer.gid, with_rootless, grants.may_name, lambda container: grants.is_named(container.rule_names())
    )


def takes_time(target: Target) -> bool:
    """Return whether resolving `target` can take longer than other clients should wait."""
    return target.kind in _SLOW


def resolve(
    target: Target,
    target_text: str,
    peer: Peer,
    grants: Grants | None,
    fds: list[int],
    held_store: HeldStore,
    closer: Closer,
) -> Pinned:
    """Pin what `target` means for `peer`, who has `grants` (None: it may know everything).  Only for targets that take no time.

    `target_text` is the target as messages name it.  Takes `fds`, which came with the target: a pidfd, or none.  What is pinned
    is closed with `closer`.  Raises the errors of the interface.
    """
    match target.kind:
        case TargetKind.PID:
            return _pin_process(target, target_text, peer)
        case TargetKind.PIDFD:
            return _pin_pidfd(fds.pop(), peer)
        case TargetKind.TID:
            return _pin_thread(target, target_text, peer)
        case TargetKind.SELF:
            return _pin_peer(peer)
        case TargetKind.NAME:
            return _pin_name(target.value, target_text, peer, grants, held_store, partial(_close, closer, peer.user))
    raise InvalidParameter("target")


async def resolve_slowly(
    target: Target,
    engines: EngineRegistry,
    query: EngineQuery,
    locations: LocationCache,
    threads: AbandonableThreads,
    closer: Closer,
) -> Pinned:
    """Pin what `target` means for the peer behind `query`.  Only for targets that take time.

    `locations` as in `search.find_by_id`.  What is pinned is closed with `closer`.  Raises the errors of the interface.
    """
    match target.kind:
        case TargetKind.CONTAINER:
            return PinnedContainer(*await engines.find(target, query))
        case TargetKind.UNIT:
            from nsbroker.daemon.targets import units  # only on this path: D-Bus takes a while to load

            return PinnedProcess(await units.find(target, engines.deadline, query.user, threads), str(target))
        case TargetKind.PATH:
            find = partial(_open_path, target, str(target))
        case _:
            find = partial(search.find_by_id, NamespaceId.parse(target.value), locations)
    close = partial(_close, closer, query.user)
    return PinnedNamespace(await _run_on_thread(threads, find, query.user, target, close), str(target), close)


def _close(closer: Closer, user: int, ns: Namespace) -> None:
    close_namespaces((ns,), closer, user)


async def _run_on_thread(
    threads: AbandonableThreads, function: Callable[[], Namespace], user: int, target: Target, close: Callable[[Namespace], object]
) -> Namespace:
    """Run `function` on a thread that can be abandoned, and close what comes too late.

    Raises NoSuchTarget when it takes too long: it may wait for a file system that never answers.
    """
    try:
        return await threads.run(user, str(target), _DEADLINE, function, close)
    except trio.TooSlowError as error:
        raise NoSuchTarget(str(target), f"a file system on the way to it did not answer within {_DEADLINE:g} s") from error


def _pin_process(target: Target, target_text: str, peer: Peer) -> Pinned:
    pid = peer.translate(target.pid, target_text)
    # Rules and records use the number in the broker's PID namespace, which is not shown to the peer.
    pinned = PinnedProcess(pin(target_text, pid), target_text, (f"pid:{pid}",))
    try:
        peer.check_translated(target.pid, pid, target_text)
    except BaseException:
        pinned.close()
        raise
    return pinned


def _pin_thread(target: Target, target_text: str, peer: Peer) -> Pinned:
    pid = peer.translate(target.pid, target_text)
    if pid != target.pid:
        raise NoSuchTarget(target_text, "thread numbers of another PID namespace are not translated: send a pidfd of the thread")
    return PinnedProcess(pin(target_text, target.pid, target.tid), target_text)


def _pin_pidfd(fd: int, peer: Peer) -> Pinned:
    try:
        process = Process.from_pidfd(fd)
    except ProcessLookupError as error:
        raise NoSuchTarget("the process of the pidfd", "it has ended") from error
    except OSError as error:
        raise InvalidParameter("target.pidFileDescriptor") from error
    number = f"pid:{process.pid}" if process.tid is None else f"tid:{process.pid}/{process.tid}"
    is_same_number = peer.number_of(process.pid) == process.pid
    return PinnedProcess(process, number if is_same_number else "the process of the pidfd", (number,))


def _pin_peer(peer: Peer) -> Pinned:
    process = peer.process()
    if process is None:
        raise NoSuchTarget("self", why_without_process())
    # A copy, because the peer keeps its own pidfd and closes it itself.
    return PinnedPeer(Process(os.dup(process.pidfd), process.pid, process.tid), "self")


def _pin_name(
    name: str, target_text: str, peer: Peer, grants: Grants | None, held_store: HeldStore, close: Callable[[Namespace], object]
) -> Pinned:
    """Pin the namespace that `ip netns` knows as `name`, or else what the broker holds under that name.

    What the broker holds for another user has a name that this user chose.  A rule's pattern was not meant for such a name: only
    a rule with this exact name, or for anything, gives access to it.
    """
    try:
        return PinnedNamespace(Namespace.from_name(name), target_text, close)
    except NoSuchTarget:
        held = held_store.find(name)
        if held is None or not (peer.owns(held.uid) or grants is None or grants.is_named_exactly(target_text)):
            raise
        return PinnedHeld(held, target_text)


def _open_path(target: Target, target_text: str) -> Namespace:
    try:
        fd = openat2(target.value, os.O_PATH, resolve=RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        raise file_error(target_text, error) from error
    return Namespace.from_found(fd, target_text)
