"""Pinned targets: a process, or namespaces that are kept open.  Facts are read and namespaces are opened from what is pinned."""

import contextlib
import os
from collections.abc import Callable
from typing import Protocol

from nsbroker.daemon.engines.container import Container
from nsbroker.daemon.peer import Owner
from nsbroker.daemon.policy.scope import Names
from nsbroker.daemon.targets.held_store import HeldEntry
from nsbroker.errors import (
    BrokerError,
    NoSuchTarget,
    NotANamespace,
    PermissionDenied,
    TargetChanged,
)
from nsbroker.linux.credentials import Credentials
from nsbroker.linux.pidfd import ProcessInfo
from nsbroker.linux.process import Process
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace

_ALL = tuple(NamespaceType)
# The kernel's own limit (user_namespaces(7)).
_USER_NAMESPACE_DEPTH = 33


class Pinned(Protocol):
    """What a target means, pinned until `close`."""

    target: str
    """The target as it is named to the peer."""

    names: Names
    """The targets that rules match against; records use the first.  Empty for a container of a user's rootless engine."""

    is_process: bool
    """Whether it is a process.  Otherwise it is one or more namespaces alone."""

    @property
    def network_is_named(self) -> bool:
        """Whether a rule for it means this very network.  A process may have none of its own, and a user chooses what to hold."""

    def types(self) -> tuple[NamespaceType, ...]:
        """Return the types of namespace that it has."""

    def belongs_to(self, peer: Owner) -> bool:
        """Return whether it is the peer's own: a process whose uids are all the peer's, or what the broker holds for it."""

    def open(self, ns_type: NamespaceType) -> Namespace:
        """Open its namespace of type `ns_type`.  The caller closes it."""

    def open_as(self, user: Credentials, ns_type: NamespaceType) -> Namespace:
        """Like `open`, with the rights of `user` alone.  Raises PermissionDenied when the kernel refuses it."""

    def is_open_to(self, user: Credentials) -> bool:
        """Return whether the kernel lets this user open its namespaces."""

    def directory(self) -> int:
        """Return a directory fd (the caller's) of the process's /proc/PID.  Raises NoSuchTarget for what is no process."""

    def check_unchanged(self) -> None:
        """Raise NoSuchTarget or TargetChanged when the facts that were read after pinning no longer hold."""

    def close(self) -> None:
        """Release what is pinned."""


class PinnedProcess:
    """A process or thread."""

    is_process = True
    network_is_named = False
    __slots__ = ("_info", "_process", "names", "target")

    def __init__(self, process: Process, target: str, names: Names | None = None) -> None:
        """Takes `process`.  `names` is the target alone by default."""
        self._info: ProcessInfo | None = None
        self._process = process
        self.target = target
        self.names = (target,) if names is None else names

    def types(self) -> tuple[NamespaceType, ...]:
        """Return all eight namespace types: a process is in one namespace of each."""
        return _ALL

    def belongs_to(self, peer: Owner) -> bool:
        """Return whether its real, effective, saved and file system uid are all the peer's.

        Its uids are read when this is asked first, and from then on belong to the facts that must not change.
        """
        if self._info is None:
            try:
                self._info = self._process.info()
            except ProcessLookupError as error:
                raise NoSuchTarget(self.target, "the process has ended") from error
        uids = self._info.uids
        return peer.owns(uids[0]) and uids == (uids[0],) * 4

    def open(self, ns_type: NamespaceType) -> Namespace:
        """Open the namespace of type `ns_type` that it is in."""
        return Namespace.from_process(self._process, ns_type, self.target)

    def open_as(self, user: Credentials, ns_type: NamespaceType) -> Namespace:
        """Like `open`, with the rights of `user` alone: the kernel checks PTRACE_MODE_READ_FSCREDS (ptrace(2))."""
        if user.uid == os.geteuid() != 0:
            # The broker runs as this user, so its own rights are the same.
            return self.open(ns_type)
        try:
            # What is needed below /proc must be opened before: the user may be unable to see the process there.
            self._process.prepare()
            with user:
                return self.open(ns_type)
        except OSError as error:
            raise PermissionDenied(f"{self.target}: opening its {ns_type} namespace", error.strerror or str(error)) from error

    def is_open_to(self, user: Credentials) -> bool:
        """Return whether the kernel lets `user`, without any capability, look into it."""
        try:
            self.open_as(user, NamespaceType.NET).close()
        except (BrokerError, OSError):
            return False
        return True

    def directory(self) -> int:
        """Return a directory fd (the caller's) of its /proc/PID."""
        try:
            return self._process.directory()
        except ProcessLookupError as error:
            raise NoSuchTarget(self.target, "the process has ended") from error

    def check_unchanged(self) -> None:
        """Check that the process lives and that its uids, if they were read, are unchanged: it may have executed a setuid file."""
        try:
            if self._process.has_ended():
                raise NoSuchTarget(self.target, "the process has ended")
            if self._info is not None and self._process.info() != self._info:
                raise TargetChanged(self.target, "the process has changed its uids since it was pinned")
        except OSError as error:
            raise NoSuchTarget(self.target, "the process has ended") from error

    def close(self) -> None:
        """Release the process."""
        self._process.close()


class PinnedPeer(PinnedProcess):
    """The process that connected.  It can open its own namespaces itself, even when others of its user cannot."""

    __slots__ = ()

    def open_as(self, user: Credentials, ns_type: NamespaceType) -> Namespace:  # noqa: ARG002 - the Protocol's signature
        """Like `open`: the kernel lets every process look into itself."""
        return self.open(ns_type)

    def is_open_to(self, user: Credentials) -> bool:  # noqa: ARG002 - the Protocol's signature
        """Return True: it can always look into itself."""
        return True


class PinnedContainer(PinnedProcess):
    """The first process of a container."""

    __slots__ = ("_user",)

    def __init__(self, container: Container, process: Process) -> None:
        """Takes `process`."""
        super().__init__(process, container.target, container.rule_names())
        self._user = container.user

    def belongs_to(self, peer: Owner) -> bool:
        """Return whether its uids are all the peer's, or whether the peer's user made the user namespace that it is in.

        The second counts only for containers of the peer's rootless engine.  The container must be in a user namespace that the
        peer's user made in the broker's own, or below such a one: there, the kernel gives the maker every right, whatever uid
        the process has (user_namespaces(7)).
        """
        return super().belongs_to(peer) or (self._user != 0 and peer.owns(self._user) and self._is_in_namespace_made_by(self._user))

    def _is_in_namespace_made_by(self, uid: int) -> bool:
        with contextlib.ExitStack() as opened:
            broker = opened.enter_context(Namespace.current(NamespaceType.USER))
            user = opened.enter_context(self.open(NamespaceType.USER))
            for _ in range(_USER_NAMESPACE_DEPTH):
                try:
                    parent = opened.enter_context(user.parent())
                except PermissionDenied:
                    return False
                if parent == broker:
                    return user.owner_uid() == uid
                user = parent
        return False


class PinnedNamespace:
    """A namespace found by a name, a path or its id.  Its descriptor pins it: a descriptor never changes its namespace."""

    is_process = False
    network_is_named = True
    __slots__ = ("_close", "_namespace", "names", "target")

    def __init__(self, namespace: Namespace, target: str, close: Callable[[Namespace], object]) -> None:
        """Takes `namespace`, and calls `close` with it in the end."""
        self._close = close
        self._namespace = namespace
        self.target = target
        self.names: Names = (target,)

    def types(self) -> tuple[NamespaceType, ...]:
        """Return its one type."""
        return (self._namespace.type,)

    def belongs_to(self, peer: Owner) -> bool:  # noqa: ARG002 - the Protocol's signature
        """Return False: it is not a process."""
        return False

    def open(self, ns_type: NamespaceType) -> Namespace:
        """Return another handle of it (the caller's to close).  Raises NotANamespace when it is of another type."""
        if ns_type is not self._namespace.type:
            raise NotANamespace(self.target, f"a {self._namespace.type} namespace, it has no {ns_type}")
        return Namespace(os.dup(self._namespace.fileno()), ns_type)

    def open_as(self, user: Credentials, ns_type: NamespaceType) -> Namespace:  # noqa: ARG002 - the Protocol's signature
        """Like `open`: for an open descriptor of a namespace the kernel has no check of its own."""
        return self.open(ns_type)

    def is_open_to(self, user: Credentials) -> bool:  # noqa: ARG002 - the Protocol's signature
        """Return True: here the rules alone decide."""
        return True

    def directory(self) -> int:
        """Raise NoSuchTarget: only a process has one."""
        raise _no_process(self.target)

    def check_unchanged(self) -> None:
        """Do nothing: it cannot have changed."""

    def close(self) -> None:
        """Release the namespace."""
        self._close(self._namespace)


class PinnedHeld:
    """What the broker holds under a name.  It belongs to the user who asked the broker to hold it."""

    is_process = False
    __slots__ = ("_namespaces", "_uid", "names", "target")

    def __init__(self, held: HeldEntry, target: str) -> None:
        """Borrows `held`.  The namespaces that it opens are copies."""
        self._namespaces = dict(held.namespaces)
        self._uid = held.uid
        self.target = target
        self.names: Names = (target,)

    @property
    def network_is_named(self) -> bool:
        """Return whether root chose it."""
        return self._uid == 0

    def types(self) -> tuple[NamespaceType, ...]:
        """Return the types that are held."""
        return tuple(self._namespaces)

    def belongs_to(self, peer: Owner) -> bool:
        """Return whether the peer's user asked the broker to hold it."""
        return peer.owns(self._uid)

    def open(self, ns_type: NamespaceType) -> Namespace:
        """Return another handle of the held namespace of this type (the caller's to close).

        Raises NotANamespace without one, NoSuchTarget when it was released meanwhile.
        """
        if ns_type not in self._namespaces:
            raise NotANamespace(self.target, f"only {', '.join(self._namespaces)} is held under that name, no {ns_type}")
        self.check_unchanged()
        return Namespace(os.dup(self._namespaces[ns_type].fileno()), ns_type)

    def open_as(self, user: Credentials, ns_type: NamespaceType) -> Namespace:  # noqa: ARG002 - the Protocol's signature
        """Like `open`: for an open descriptor of a namespace the kernel has no check of its own."""
        return self.open(ns_type)

    def is_open_to(self, user: Credentials) -> bool:  # noqa: ARG002 - the Protocol's signature
        """Return True: here the rules alone decide."""
        return True

    def directory(self) -> int:
        """Raise NoSuchTarget: only a process has one."""
        raise _no_process(self.target)

    def check_unchanged(self) -> None:
        """Check that it is still held.  Raises NoSuchTarget."""
        if any(ns.closed for ns in self._namespaces.values()):
            raise NoSuchTarget(self.target, "it was released meanwhile")

    def close(self) -> None:
        """Do nothing: the namespaces stay held."""


def _no_process(target: str) -> NoSuchTarget:
    return NoSuchTarget(target, "a namespace alone has no files and devices: name a process or a container")
