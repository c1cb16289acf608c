"""What a target means, held: a process or a namespace, from which facts are read and namespaces are opened."""

import contextlib
import os
from typing import Protocol

from nsbroker.daemon.engines.container import Container
from nsbroker.daemon.policy.grants import Names
from nsbroker.daemon.targets.held_store import Held
from nsbroker.errors import (
    BrokerError,
    NoSuchTarget,
    NotANamespace,
    PermissionDenied,
    TargetChanged,
)
from nsbroker.linux.credentials import Credentials
from nsbroker.linux.process import Process
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace

_ALL = tuple(NamespaceType)
# The kernel's own limit (user_namespaces(7)).
_USER_NAMESPACE_DEPTH = 33


class Pinned(Protocol):
    """What a target means, held until `close`."""

    target: str
    """The target as the peer is told of it."""

    names: Names
    """The targets by which rules may mean it, the one by which records name it first; none for a user's own container."""

    is_process: bool
    """Whether it is one: else it is namespaces alone."""

    def types(self) -> tuple[NamespaceType, ...]:
        """The types of namespace it has."""

    def is_of(self, uid: int) -> bool:
        """Whether it is a process all of whose uids are `uid`."""

    def open(self, kind: NamespaceType) -> Namespace:
        """Its namespace of type `kind`; the caller's to close."""

    def open_as(self, user: Credentials, kind: NamespaceType) -> Namespace:
        """The same, as far as the kernel lets this user: raises PermissionDenied."""

    def is_open_to(self, user: Credentials) -> bool:
        """Whether the kernel lets this user open its namespaces."""

    def directory(self) -> int:
        """A directory fd (the caller's) of the process's /proc/PID.  Raises NoSuchTarget for what is no process."""

    def see_unchanged(self) -> None:
        """Raises NoSuchTarget or TargetChanged when what it was pinned as no longer holds."""

    def close(self) -> None:
        """Let go of it."""


class PinnedProcess:
    """A process or thread."""

    is_process = True
    __slots__ = ("_info", "_process", "names", "target")

    def __init__(self, process: Process, target: str, names: Names | None = None) -> None:
        """Takes `process`, also on error.  `names`: by default the target alone."""
        try:
            self._info = process.info()
        except BaseException as error:
            process.close()
            if isinstance(error, ProcessLookupError):
                raise NoSuchTarget(target, "the process has ended") from error
            raise
        self._process = process
        self.target = target
        self.names = (target,) if names is None else names

    def types(self) -> tuple[NamespaceType, ...]:
        """All eight."""
        return _ALL

    def is_of(self, uid: int) -> bool:
        """Whether its real, effective, saved and file-system uid all are `uid`."""
        return self._info.uids == (uid, uid, uid, uid)

    def open(self, kind: NamespaceType) -> Namespace:
        """The namespace of type `kind` that it is in."""
        return Namespace.from_process(self._process, kind, self.target)

    def open_as(self, user: Credentials, kind: NamespaceType) -> Namespace:
        """The same with the rights of `user` alone, who need not be allowed to look into it (PTRACE_MODE_READ_FSCREDS)."""
        if user.uid == os.geteuid() != 0:
            # The broker has no other rights than this user.
            return self.open(kind)
        try:
            # What is read below /proc has to be opened before: there, the user may be shown nothing.
            self._process.prepare()
            with user:
                return self.open(kind)
        except OSError as error:
            raise PermissionDenied(f"{self.target}: opening its {kind} namespace", error.strerror or str(error)) from error

    def is_open_to(self, user: Credentials) -> bool:
        """Whether `user`, with no capability, may look into it."""
        try:
            self.open_as(user, NamespaceType.NET).close()
        except (BrokerError, OSError):
            return False
        return True

    def directory(self) -> int:
        """A directory fd (the caller's) of its /proc/PID."""
        try:
            return self._process.directory()
        except ProcessLookupError as error:
            raise NoSuchTarget(self.target, "the process has ended") from error

    def see_unchanged(self) -> None:
        """The process lives and has the uids it had: it did not exec something setuid meanwhile."""
        try:
            if self._process.has_ended():
                raise NoSuchTarget(self.target, "the process has ended")
            if self._process.info() != self._info:
                raise TargetChanged(self.target, "the process changed its user meanwhile")
        except OSError as error:
            raise NoSuchTarget(self.target, "the process has ended") from error

    def close(self) -> None:
        """Let go of the process."""
        self._process.close()


class PinnedPeer(PinnedProcess):
    """The process that connected, which could open its own namespaces itself, whatever it is to others."""

    __slots__ = ()

    def open_as(self, user: Credentials, kind: NamespaceType) -> Namespace:  # noqa: ARG002 - the Protocol's signature
        """The same: the kernel lets every process look into itself."""
        return self.open(kind)

    def is_open_to(self, user: Credentials) -> bool:  # noqa: ARG002 - the Protocol's signature
        """Yes."""
        return True


class PinnedContainer(PinnedProcess):
    """The first process of a container."""

    __slots__ = ("_user",)

    def __init__(self, container: Container, process: Process) -> None:
        """Takes `process`, also on error."""
        super().__init__(process, container.target, container.rule_names())
        self._user = container.user

    def is_of(self, uid: int) -> bool:
        """Whether all its uids are `uid`; of a container that `uid`'s own engine runs, also whether it is in a user
        namespace that `uid` made in ours, or below one: the kernel gives its maker every right there, whatever uid it
        runs as (user_namespaces(7)).
        """
        return super().is_of(uid) or (0 != self._user == uid and self._is_below(uid))

    def _is_below(self, uid: int) -> bool:
        with contextlib.ExitStack() as held:
            ours = held.enter_context(Namespace.current(NamespaceType.USER))
            user = held.enter_context(self.open(NamespaceType.USER))
            for _ in range(_USER_NAMESPACE_DEPTH):
                try:
                    parent = held.enter_context(user.parent())
                except PermissionDenied:
                    return False
                if parent == ours:
                    return user.owner_uid() == uid
                user = parent
        return False


class PinnedNamespace:
    """A namespace found by a name, a path or its id.  Holding it is all it takes: what a descriptor shows never changes."""

    is_process = False
    __slots__ = ("_namespace", "names", "target")

    def __init__(self, namespace: Namespace, target: str) -> None:
        """Takes `namespace`."""
        self._namespace = namespace
        self.target = target
        self.names: Names = (target,)

    def types(self) -> tuple[NamespaceType, ...]:
        """The one."""
        return (self._namespace.type,)

    def is_of(self, uid: int) -> bool:  # noqa: ARG002 - the Protocol's signature
        """No: it is not a process."""
        return False

    def open(self, kind: NamespaceType) -> Namespace:
        """Another handle of it.  Raises NotANamespace when it is of another type."""
        if kind is not self._namespace.type:
            raise NotANamespace(self.target, f"a {self._namespace.type} namespace, it has no {kind}")
        return Namespace(os.dup(self._namespace.fileno()), kind)

    def open_as(self, user: Credentials, kind: NamespaceType) -> Namespace:  # noqa: ARG002 - the Protocol's signature
        """The same: the kernel has no rule of its own for a namespace that is held."""
        return self.open(kind)

    def is_open_to(self, user: Credentials) -> bool:  # noqa: ARG002 - the Protocol's signature
        """Yes: that is for the rules alone to say."""
        return True

    def directory(self) -> int:
        """Raises NoSuchTarget: only a process has one."""
        raise _without_root(self.target)

    def see_unchanged(self) -> None:
        """Nothing can have changed."""

    def close(self) -> None:
        """Let go of the namespace."""
        self._namespace.close()


class PinnedHeld:
    """What the broker holds under a name.  It is whoever's who had it held."""

    is_process = False
    __slots__ = ("_spaces", "_uid", "names", "target")

    def __init__(self, held: Held, target: str) -> None:
        """Borrows `held`; what it opens are copies."""
        self._spaces = dict(held.spaces)
        self._uid = held.uid
        self.target = target
        self.names: Names = (target,)

    def types(self) -> tuple[NamespaceType, ...]:
        """Those that are held."""
        return tuple(self._spaces)

    def is_of(self, uid: int) -> bool:
        """Whether `uid` had it held."""
        return self._uid == uid

    def open(self, kind: NamespaceType) -> Namespace:
        """Another handle of the one of type `kind`.  Raises NotANamespace when none of it is held."""
        if kind not in self._spaces:
            raise NotANamespace(self.target, f"only {', '.join(self._spaces)} is held under that name, no {kind}")
        return Namespace(os.dup(self._spaces[kind].fileno()), kind)

    def open_as(self, user: Credentials, kind: NamespaceType) -> Namespace:  # noqa: ARG002 - the Protocol's signature
        """The same: the kernel has no rule of its own for a namespace that is held."""
        return self.open(kind)

    def is_open_to(self, user: Credentials) -> bool:  # noqa: ARG002 - the Protocol's signature
        """Yes: that is for the rules alone to say."""
        return True

    def directory(self) -> int:
        """Raises NoSuchTarget: only a process has one."""
        raise _without_root(self.target)

    def see_unchanged(self) -> None:
        """Nothing can have changed."""

    def close(self) -> None:
        """Nothing is to be let go of: it stays held."""


def _without_root(target: str) -> NoSuchTarget:
    return NoSuchTarget(target, "a namespace alone has no /dev: name a process or a container")
