"""Which of the things of a census a peer's rules let it see."""

import errno
import os
from collections.abc import Mapping, Sequence

from nsbroker.daemon.discovery.scan_result import TYPES, Member, Sighting
from nsbroker.daemon.discovery.view import Named, Sight
from nsbroker.daemon.engines.container import Container
from nsbroker.daemon.engines.registry import distinct
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.policy.grants import Grants
from nsbroker.daemon.targets.held_store import Holder as Held
from nsbroker.daemon.targets.pinned import PinnedContainer
from nsbroker.linux.credentials import Credentials
from nsbroker.linux.process import Process
from nsbroker.model.description import Holder, HolderKind
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace.opening import NAME_DIRECTORIES

_NONE: frozenset[NamespaceType] = frozenset()


def sight_of(
    grants: Grants, peer: Peer, containers: Mapping[Container, frozenset[NamespaceType]], units: Sequence[Named], held: Held
) -> Sight:
    """What `peer`, whose rules these are, may see.  `containers`: those of which it may open something, and what; `units`:
    main processes of units that a rule names.
    """
    everything = grants.everywhere()
    by_pid: dict[int, frozenset[NamespaceType]] = {}
    for container, types in containers.items():
        by_pid[container.pid] = by_pid.get(container.pid, _NONE) | types
    # One that several engines know has the name by which people know it.
    labels = [Named(container.pid, container.target) for container in distinct(containers)]
    for unit in units:
        by_pid[unit.pid] = by_pid.get(unit.pid, _NONE) | grants.types((unit.name,), own=False)
    return Sight(
        everything,
        _Processes(grants, peer, by_pid).types,
        _Sightings(grants, peer).sees,
        labels,
        _held(grants, peer, held),
        peer.number_of,
    )


class _Processes:
    """Processes: by number, as the peer's own, and as what containers and units begin with."""

    def __init__(self, grants: Grants, peer: Peer, by_pid: dict[int, frozenset[NamespaceType]]) -> None:
        self._grants = grants
        self._user = None if peer.anonymous or not grants.has_own else peer.credentials
        self._named = grants.has_kind("pid")
        self._by_pid = by_pid

    def types(self, member: Member) -> frozenset[NamespaceType]:
        pid = member.facts.pid
        types = self._by_pid.get(pid, _NONE)
        own = self._user is not None and _is_own(member, self._user)
        if own or self._named:
            types |= self._grants.types((f"pid:{pid}",), own=own)
        return types


class _Sightings:
    """Threads, names and paths that rules name; and namespaces, by their ids."""

    def __init__(self, grants: Grants, peer: Peer) -> None:
        self._grants = grants
        self._user = None if peer.anonymous or not grants.has_own else peer.credentials
        self._ids = [kind for kind in NamespaceType if grants.has_kind(kind)]

    def sees(self, sighting: Sighting) -> bool:
        link, holder, member = sighting
        kind = NamespaceType(link.partition(":")[0])
        if kind in self._ids and kind in self._grants.types((link,), own=False):
            return True
        if holder.kind is HolderKind.THREAD and member is not None:
            own = self._user is not None and _is_own(member, self._user, holder.number)
            return kind in self._grants.types((f"tid:{holder.pid}/{holder.number}",), own=own)
        if holder.kind is HolderKind.MOUNT and holder.pid is None:
            return any(kind in self._grants.types((name,), own=False) for name in _names_of_file(holder.path or ""))
        return False


def _is_own(member: Member, user: Credentials, tid: int | None = None) -> bool:
    """Whether the process (or one of its threads) is the user's own, and still the one that was seen: all its uids are the
    user's, and the kernel lets that user look into it.
    """
    facts = member.facts
    if facts.is_kernels:
        return False
    try:
        with Process.open(facts.pid) if tid is None else Process.open_thread(facts.pid, tid) as process:
            if process.info().uids != (user.uid,) * 4:
                return False
            if user.uid == os.geteuid() != 0:
                return _is_in(process, member, tid)
            process.prepare()
            with user:
                return _is_in(process, member, tid)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return False


def _is_in(process: Process, member: Member, tid: int | None) -> bool:
    """Whether it is where the one was that was seen, so that it makes no difference if it is another.

    Not its start time is compared: reading that can wait for the process.  Of a thread only whether it lets itself be
    looked at.  Raises OSError when it does not.
    """
    for kind, link in zip(TYPES, member.links, strict=True):
        fd = process.open_namespace(kind)
        try:
            if tid is None and link != f"{kind}:[{os.fstat(fd).st_ino}]":
                return False
        finally:
            os.close(fd)
    return True


def _names_of_file(path: str) -> list[str]:
    folder, _, name = path.rpartition("/")
    return [f"path:{path}", *([f"name:{name}"] if folder in NAME_DIRECTORIES else [])]


def types_of(container: Container, process: Process, grants: Grants, peer: Peer) -> frozenset[NamespaceType]:
    """What the peer may open of a container, whose first process this takes.  Raises BrokerError, OSError."""
    pinned = PinnedContainer(container, process)
    try:
        own = not peer.anonymous and pinned.is_of(peer.uid) and pinned.is_open_to(peer.credentials)
        return grants.types(pinned.names, own=own)
    finally:
        pinned.close()


def _held(grants: Grants, peer: Peer, held: Held) -> list[Sighting]:
    found = []
    for one in held:
        name = f"name:{one.name}"
        types = grants.types_of_held(name, own=peer.owns(one.uid))
        found += [
            Sighting(str(space), Holder(HolderKind.DESCRIPTOR, path=name), None)
            for kind, space in one.spaces.items()
            if kind in types
        ]
    return found
