"""From a target to what it means, pinned: a process or a namespace that is held, never a bare number.

Pin, look, open, look again: facts are read from what is pinned, the verdict rests on those facts, the namespaces are
opened from the pin, and `see_unchanged` then shows that the facts still hold.  Any error on the way is a no.
"""

import os
from collections.abc import Callable
from functools import partial

import trio

from nsbroker.daemon.engines.registry import Asker, Roster
from nsbroker.daemon.limits.abandonable_threads import AbandonableThreads
from nsbroker.daemon.peer import Peer, why_without_process
from nsbroker.daemon.policy.grants import Grants
from nsbroker.daemon.targets.held_store import Holder
from nsbroker.daemon.targets.location_cache import Hints
from nsbroker.daemon.targets.pinned import Pinned, PinnedContainer, PinnedHeld, PinnedNamespace, PinnedPeer, PinnedProcess
from nsbroker.errors import (
    InvalidParameter,
    NoSuchTarget,
)
from nsbroker.linux.openat2 import RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2
from nsbroker.linux.process import Process
from nsbroker.model.identity import NamespaceId
from nsbroker.model.target import Kind, Target
from nsbroker.namespace import Namespace, search
from nsbroker.namespace.opening import file_error, pin

_SLOW = frozenset((Kind.CONTAINER, Kind.NAMESPACE, Kind.PATH, Kind.UNIT))
_DEADLINE = 5.0


def takes_time(target: Target) -> bool:
    """Whether finding out what `target` means can take longer than other clients should wait."""
    return target.kind in _SLOW


def resolve(target: Target, said: str, peer: Peer, grants: Grants, fds: list[int], holder: Holder) -> Pinned:
    """What `target`, which prints as `said`, means when `peer`, who has `grants`, says it; for targets that do not take time.

    Takes `fds`, which came with the target: a pidfd, or none.  Raises the errors of the interface.
    """
    match target.kind:
        case Kind.PID:
            return _process(target, said, peer)
        case Kind.PIDFD:
            return _pidfd(fds.pop(), peer)
        case Kind.TID:
            return _thread(target, said, peer)
        case Kind.SELF:
            return _self(peer)
        case Kind.NAME:
            return _named(target.value, said, peer, grants, holder)
    raise InvalidParameter("target")


async def resolve_slowly(target: Target, roster: Roster, asker: Asker, hints: Hints, threads: AbandonableThreads) -> Pinned:
    """What `target` means when the peer behind `asker` says it; for targets that take time.  `hints` as in `search.find`.

    Raises the errors of the interface.
    """
    match target.kind:
        case Kind.CONTAINER:
            return PinnedContainer(*await roster.find(target, asker))
        case Kind.UNIT:
            from nsbroker.daemon.targets import units  # only on this path: D-Bus takes a while to load

            return PinnedProcess(await units.find(target, roster.deadline, asker.user, threads), str(target))
        case Kind.PATH:
            return PinnedNamespace(await _on_thread(threads, partial(_path, target, str(target)), asker.user, target), str(target))
    find = partial(search.find, NamespaceId.parse(target.value), hints)
    return PinnedNamespace(await _on_thread(threads, find, asker.user, target), target.value)


async def _on_thread(threads: AbandonableThreads, function: Callable[[], Namespace], user: int, target: Target) -> Namespace:
    """What `function` finds, on a thread that can be abandoned: file systems need not answer.  Raises NoSuchTarget then."""
    try:
        return await threads.run(user, str(target), _DEADLINE, function, Namespace.close)
    except trio.TooSlowError as error:
        raise NoSuchTarget(str(target), f"a file system on the way to it did not answer within {_DEADLINE:g} s") from error


def _process(target: Target, said: str, peer: Peer) -> Pinned:
    ours = peer.translate(target.pid, said)
    # Rules and records name it by our number, which the peer is not told.
    pinned = PinnedProcess(pin(said, ours), said, (f"pid:{ours}",))
    try:
        peer.see_translated(target.pid, ours, said)
    except BaseException:
        pinned.close()
        raise
    return pinned


def _thread(target: Target, said: str, peer: Peer) -> Pinned:
    pid = peer.translate(target.pid, said)
    if pid != target.pid:
        raise NoSuchTarget(said, "thread numbers of another PID namespace are not translated: send a pidfd of the thread")
    return PinnedProcess(pin(said, target.pid, target.tid), said)


def _pidfd(fd: int, peer: Peer) -> Pinned:
    try:
        process = Process.from_pidfd(fd)
    except ProcessLookupError as error:
        raise NoSuchTarget("the process of the pidfd", "it has ended") from error
    except OSError as error:
        raise InvalidParameter("target.pidFileDescriptor") from error
    number = f"pid:{process.pid}" if process.tid is None else f"tid:{process.pid}/{process.tid}"
    is_ours = peer.number_of(process.pid) == process.pid
    return PinnedProcess(process, number if is_ours else "the process of the pidfd", (number,))


def _self(peer: Peer) -> Pinned:
    process = peer.process()
    if process is None:
        raise NoSuchTarget("self", why_without_process())
    # The peer keeps its own pin: each closes what is its.
    return PinnedPeer(Process(os.dup(process.pidfd), process.pid, process.tid), "self")


def _named(name: str, said: str, peer: Peer, grants: Grants, holder: Holder) -> Pinned:
    """What `ip netns` calls `name`; if nothing, what the broker holds under it for the peer.

    What it holds for somebody else is that user's choice, which a pattern was not meant for: only a rule with this very
    name leads there.
    """
    try:
        return PinnedNamespace(Namespace.from_name(name), said)
    except NoSuchTarget:
        held = holder.find(name)
        if held is None or not (peer.owns(held.uid) or grants.is_named_exactly(said)):
            raise
        return PinnedHeld(held, said)


def _path(target: Target, said: str) -> Namespace:
    try:
        found = openat2(target.value, os.O_PATH, resolve=RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        raise file_error(said, error) from error
    return Namespace.from_found(found, said)
