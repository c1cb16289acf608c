"""The store of held namespaces, which the broker keeps alive under names for the users who own them.

Where the service manager has an fd store, it keeps a copy of each, so that held namespaces survive a restart and a crash of the
broker.  The name of a copy in the fd store has the owner's uid and the namespace's type, so nothing else needs to be saved.

What is held belongs to a uid, and counts for the user of that uid: see `limits.users`.
"""

import os
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from nsbroker.daemon.limits.namespace_closing import close_namespaces
from nsbroker.daemon.limits.users import user_of
from nsbroker.daemon.systemd.service_manager import FdStore, PassedFd
from nsbroker.errors import NameTaken, NsbrokerError, QuotaExceeded
from nsbroker.linux.closing import Closer
from nsbroker.model.identity import NamespaceType, is_name
from nsbroker.namespace import Namespace

_PREFIX = "held"
NAME_MAX = 200
"""The most characters of a name: with the prefix that it gets in the fd store, it has to fit into 255."""


class HeldEntry(Struct):
    """The namespaces that are held under one name.  Owns the handles.

    They belong to `uid`, and count for `user`.
    """

    name: str
    uid: int
    user: int
    namespaces: dict[NamespaceType, Namespace] = {}


class HeldStore:
    """All held namespaces.  Owns their handles until they are released or the store is closed."""

    def __init__(self, store: FdStore, most_per_user: int) -> None:
        self.most_per_user = most_per_user
        self._store = store
        self._held: dict[str, HeldEntry] = {}

    @property
    def durable(self) -> bool:
        """Whether held namespaces outlive the broker."""
        return self._store.durable

    def restore(self, passed: Iterable[PassedFd]) -> list[str]:
        """Take over what the fd store kept (takes the fds), and return a message for each fd that cannot be taken over."""
        faults = []
        for name, fd in passed:
            try:
                self._restore(name, fd)
            except (NsbrokerError, ValueError, OSError) as error:
                self._store.forget(name)
                faults.append(f"{name!r} from the fd store cannot be taken over and is given up: {error}")
        return faults

    def _restore(self, name: str, fd: int) -> None:
        """Take over `fd` (taken, also on error)."""
        try:
            uid, ns_type, held = _parse(name)
        except BaseException:
            os.close(fd)
            raise
        ns = Namespace.from_fd(fd, owned=True, type=ns_type)
        try:
            self._keep(held, uid, user_of(uid), {ns_type: ns})
        except BaseException:
            ns.close()
            raise

    def __len__(self) -> int:
        return sum(len(held.namespaces) for held in self._held.values())

    def __iter__(self) -> Iterator[HeldEntry]:
        return iter(sorted(self._held.values(), key=lambda held: held.name))

    def find(self, name: str) -> HeldEntry | None:
        """Return what is held under `name` (borrowed), None when nothing is."""
        return self._held.get(name)

    def check(self, name: str, user: int, count: int) -> None:
        """Check that `user` may hold `count` more namespaces under a new name `name`.  Raises NameTaken, QuotaExceeded."""
        if name in self._held:
            raise NameTaken(name)
        used = sum(len(held.namespaces) for held in self._held.values() if held.user == user)
        if used + count > self.most_per_user:
            raise QuotaExceeded("held-per-user")
        if len(self) + count > self._store.size:
            raise QuotaExceeded("file descriptor store of the service manager")

    async def hold(self, name: str, uid: int, namespaces: Iterable[Namespace], closer: Closer, user: int) -> None:
        """Hold the namespaces of the handles (borrowed) for `uid`.  Raises like `check`, and OSError, TimedOut.

        When it returns, they are also in the fd store, if there is one.  On an error, the store's own handles of them are closed
        for `user` as in `close_namespaces`.
        """
        wanted = list(namespaces)
        self.check(name, user, len(wanted))
        copies: dict[NamespaceType, Namespace] = {}
        try:
            for ns in wanted:
                copies[ns.type] = _copy(ns)
            held = self._keep(name, uid, user, copies)
        except BaseException:
            close_namespaces(copies.values(), closer, user)
            raise
        try:
            for ns_type, ns in copies.items():
                self._store.keep(_format(uid, ns_type, name), ns.fileno())
            await self._store.settle()
        except BaseException:
            self.release(held, closer)
            raise

    def release(self, held: HeldEntry, closer: Closer) -> bool:
        """Remove what is held from the fd store, and close it for its user as in `close_namespaces`.

        Returns False, and does nothing, when it was released before.  Its name may stand for something else by then.
        """
        if self._held.get(held.name) is not held:
            return False
        del self._held[held.name]
        for ns_type in held.namespaces:
            self._store.forget(_format(held.uid, ns_type, held.name))
        close_namespaces(held.namespaces.values(), closer, held.user)
        return True

    def close(self) -> None:
        """Close the handles.  The copies in the fd store stay there."""
        for held in self._held.values():
            for ns in held.namespaces.values():
                ns.close()
        self._held.clear()

    def _keep(self, name: str, uid: int, user: int, namespaces: Mapping[NamespaceType, Namespace]) -> HeldEntry:
        held = self._held.setdefault(name, HeldEntry(name, uid, user))
        if held.uid != uid or not held.namespaces.keys().isdisjoint(namespaces):
            raise NameTaken(name)
        held.namespaces.update(namespaces)
        return held


def is_held_name(text: str) -> bool:
    """Return whether namespaces can be held under the name `text`."""
    return is_name(text) and len(text) <= NAME_MAX


def _copy(ns: Namespace) -> Namespace:
    # With dup(2), it would be the same open file as what another name may hold.  The fd store keeps each open file once, under its
    # first name (same_fd() in systemd).
    fd = os.open(f"/proc/self/fd/{ns.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return Namespace(fd, ns.type)
    except BaseException:
        os.close(fd)
        raise


def _format(uid: int, ns_type: NamespaceType, name: str) -> str:
    # A name in the fd store must not have a ':' (sd_pid_notify_with_fds(3)).
    return f"{_PREFIX}-{uid}-{ns_type}-{name}"


def _parse(text: str) -> tuple[int, NamespaceType, str]:
    """Split a name from the fd store into uid, type and name.  Raises ValueError, InvalidType."""
    prefix, uid, ns_type, name = text.split("-", 3)
    if prefix != _PREFIX or not is_held_name(name):
        raise ValueError("not a name that the broker stores")
    return int(uid), NamespaceType.parse(ns_type), name


def is_from_store(passed: PassedFd) -> bool:
    """Return whether a passed descriptor came from the fd store, and is not a socket to listen on."""
    return passed.name.startswith(f"{_PREFIX}-")
