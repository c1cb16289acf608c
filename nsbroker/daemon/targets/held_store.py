"""Held namespaces: the broker keeps them alive under names, for the users who own them.

Where the service manager has an fd store, it keeps a copy of each: what is held survives the broker's restart, and its
crash.  The name in the store says whose it is and of which type, so that nothing else has to be kept.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from nsbroker.daemon.systemd.service_manager import FdStore, PassedFd
from nsbroker.errors import NameTaken, NsbrokerError, QuotaExceeded
from nsbroker.model.identity import NamespaceType, is_name
from nsbroker.namespace import Namespace

_PREFIX = "held"
NAME_MAX = 200
"""Characters of a name: with what is before it, it has to fit into 255."""


@dataclass(slots=True)
class Held:
    """What is held under one name.  Owns the handles."""

    name: str
    uid: int
    spaces: dict[NamespaceType, Namespace] = field(default_factory=dict)


class Holder:
    """All that is held.  Owns it until it is released."""

    def __init__(self, store: FdStore, most_per_user: int) -> None:
        self.most_per_user = most_per_user
        self._store = store
        self._held: dict[str, Held] = {}

    @property
    def durable(self) -> bool:
        """Whether what is held outlives the broker."""
        return self._store.durable

    def restore(self, passed: Iterable[PassedFd]) -> list[str]:
        """Take over what the store kept (takes the fds); what is wrong with those that cannot be, in words."""
        faults = []
        for name, fd in passed:
            try:
                uid, kind, held = _parse(name)
                self._keep(held, uid, {kind: Namespace.from_fd(fd, owned=True, type=kind)})
            except (NsbrokerError, ValueError, OSError) as error:
                self._store.forget(name)
                faults.append(f"{name!r} from the fd store is let go: {error}")
        return faults

    def __len__(self) -> int:
        return sum(len(held.spaces) for held in self._held.values())

    def __iter__(self) -> Iterator[Held]:
        return iter(sorted(self._held.values(), key=lambda held: held.name))

    def find(self, name: str) -> Held | None:
        """What is held under `name` (borrowed)."""
        return self._held.get(name)

    def check(self, name: str, uid: int, count: int) -> None:
        """See that `uid` may hold `count` more under `name`.  Raises NameTaken, QuotaExceeded."""
        if name in self._held:
            raise NameTaken(name)
        mine = sum(len(held.spaces) for held in self._held.values() if held.uid == uid)
        if mine + count > self.most_per_user:
            raise QuotaExceeded("held-per-user")
        if len(self) + count > self._store.size:
            raise QuotaExceeded("file descriptor store of the service manager")

    async def hold(self, name: str, uid: int, spaces: Iterable[Namespace]) -> None:
        """Hold the same namespaces as the handles (borrowed).  Raises as `check`, and OSError.

        When it returns they are in the store, if there is one.
        """
        wanted = list(spaces)
        self.check(name, uid, len(wanted))
        copies: dict[NamespaceType, Namespace] = {}
        try:
            for space in wanted:
                copies[space.type] = _copy(space)
            self._keep(name, uid, copies)
        except BaseException:
            for copy in copies.values():
                copy.close()
            raise
        try:
            for kind, space in copies.items():
                self._store.keep(_format(uid, kind, name), space.fileno())
            await self._store.settle()
        except BaseException:
            self.release(name)
            raise

    def release(self, name: str) -> None:
        """Let go of what is held under `name`."""
        held = self._held.pop(name)
        for kind, space in held.spaces.items():
            self._store.forget(_format(held.uid, kind, name))
            space.close()

    def close(self) -> None:
        """Close our handles; what is in the store stays there."""
        for held in self._held.values():
            for space in held.spaces.values():
                space.close()
        self._held.clear()

    def _keep(self, name: str, uid: int, spaces: Mapping[NamespaceType, Namespace]) -> None:
        held = self._held.setdefault(name, Held(name, uid))
        if held.uid != uid or not held.spaces.keys().isdisjoint(spaces):
            raise NameTaken(name)
        held.spaces.update(spaces)


def is_held_name(text: str) -> bool:
    """Whether something can be held under `text`."""
    return is_name(text) and len(text) <= NAME_MAX


def _copy(space: Namespace) -> Namespace:
    fd = os.dup(space.fileno())
    try:
        return Namespace(fd, space.type)
    except BaseException:
        os.close(fd)
        raise


def _format(uid: int, kind: NamespaceType, name: str) -> str:
    # A ':' would end a name in the store (sd_pid_notify_with_fds(3)).
    return f"{_PREFIX}-{uid}-{kind}-{name}"


def _parse(text: str) -> tuple[int, NamespaceType, str]:
    """Raises ValueError, InvalidType."""
    prefix, uid, kind, name = text.split("-", 3)
    if prefix != _PREFIX or not is_held_name(name):
        raise ValueError("not a name that the broker gives")
    return int(uid), NamespaceType.parse(kind), name


def is_from_store(passed: PassedFd) -> bool:
    """Whether a descriptor that was handed over is one that we had stored, and no socket to listen on."""
    return passed.name.startswith(f"{_PREFIX}-")
