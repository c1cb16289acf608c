"""References: which namespace to open, written down now and opened later, as often as needed."""

import os
from dataclasses import dataclass
from typing import Protocol, TypeVar, overload

from nsbroker.errors import InvalidTarget, NoSuchTarget, NotANamespace
from nsbroker.linux.process import Process
from nsbroker.model.identity import Expectation, NamespaceId, NamespaceType
from nsbroker.model.target import Target, TargetKind
from nsbroker.namespace.handle import Namespace

T = TypeVar("T", covariant=True)


class Opener(Protocol[T]):
    """A client of the broker.  `T` is Namespace for the blocking client, and something to await for the others."""

    def open(self, target: str | Target, type: str, *, expect: Expectation | None = None) -> T:
        """Open one namespace of `target`."""


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Reference:
    """A namespace that is opened when it is needed: a target, a type, and what it is expected to be.

    It holds no descriptor, and can be opened any number of times, compared, hashed and pickled.  `str()` of it says what it means.
    """

    target: Target
    type: NamespaceType
    expect: Expectation | None

    def __init__(self, target: str | Target, type: str, *, expect: Expectation | None = None) -> None:
        """Refer to the namespace of `type` of `target`.  Raises InvalidTarget, InvalidType; nothing is looked up yet."""
        object.__setattr__(self, "target", target if isinstance(target, Target) else Target.parse(target))
        object.__setattr__(self, "type", NamespaceType.parse(type))
        object.__setattr__(self, "expect", expect)

    @overload
    def open(self, broker: None = None) -> Namespace: ...

    @overload
    def open(self, broker: Opener[T]) -> T: ...

    def open(self, broker: Opener[T] | None = None) -> Namespace | T:
        """Open the namespace; the handle is the caller's to close.

        With a client of the broker, this is its `open` (await it for trio and asyncio), with its errors.  Without one, this
        process opens the namespace itself, as far as the kernel lets it, with the errors of `Namespace.from_pid` and the like.
        Containers and units take a broker: InvalidTarget says so.
        """
        if broker is not None:
            return broker.open(self.target, self.type, expect=self.expect)
        target = self.target
        match target.kind:
            case TargetKind.PID:
                return Namespace.from_pid(target.pid, self.type, expect=self.expect)
            case TargetKind.TID:
                return Namespace.from_thread(target.pid, target.tid, self.type, expect=self.expect)
            case TargetKind.SELF:
                return Namespace.from_pid(os.getpid(), self.type, expect=self.expect)
            case TargetKind.NAME:
                return Namespace.from_name(target.value, self.type, expect=self.expect)
            case TargetKind.PATH:
                return Namespace.from_path(target.value, self.type, expect=self.expect)
            case TargetKind.PIDFD:
                return self._check(*self._open_pidfd(int(target.value)))
            case TargetKind.NAMESPACE:
                return self._check(self._find(NamespaceId.parse(target.value)), None)
        raise InvalidTarget(f"{target}: only the broker can find that: pass a client, as in reference.open(broker)")

    def _open_pidfd(self, pidfd: int) -> tuple[Namespace, int]:
        """Open the namespace of the process of `pidfd` (borrowed).  Return the start time of the process, too."""
        try:
            with Process.from_pidfd(os.dup(pidfd)) as process:
                start_time = process.start_time()
                return Namespace.from_process(process, self.type, str(self.target)), start_time
        except ProcessLookupError as error:
            raise NoSuchTarget(str(self.target), "the process has ended, or cannot be seen from here") from error
        except OSError as error:
            raise InvalidTarget(f"{self.target} is no open pidfd of this process: {error.strerror}") from error

    def _find(self, wanted: NamespaceId) -> Namespace:
        from nsbroker.namespace.search import find_by_id  # Imported only here: few programs search, and all pay for imports.

        if wanted.type is not self.type:
            raise NotANamespace(str(wanted), f"a {wanted.type} namespace, not {self.type}")
        return find_by_id(wanted)

    def _check(self, ns: Namespace, start_time: int | None) -> Namespace:
        """Check `ns` (taken on error) against what is expected."""
        try:
            if self.expect is not None:
                self.expect.check_process(start_time, str(self.target))
                self.expect.check_namespace(ns.id, str(self.target))
        except BaseException:
            ns.close()
            raise
        return ns

    def __str__(self) -> str:
        return f"{self.type} of {self.target}"

    def __repr__(self) -> str:
        return f"<Reference {self}>"
