"""Targets, and what a caller expects of them, as messages have them: see `messages`."""

import functools
from typing import Annotated, Self

from msgspec import Meta, Struct, field

from nsbroker.errors import InvalidParameter, InvalidTarget
from nsbroker.model.identity import Expectation, NamespaceType
from nsbroker.model.target import PID_MAX, Target, TargetKind

# How many targets are remembered as they were parsed.
_PARSED_MAX = 512
_Pid = Annotated[int, Meta(ge=1, le=PID_MAX)]


class TargetSpec(Struct, rename="camel", omit_defaults=True, forbid_unknown_fields=True, frozen=True):
    """A target as a message has it: one field is set, or `pid` and `tid`, or `container` and `engine`."""

    pid: _Pid | None = None
    tid: _Pid | None = None
    pid_file_descriptor: int | None = None
    name: str | None = None
    container: str | None = None
    engine: str | None = None
    unit: str | None = None
    namespace: str | None = None
    path: str | None = None
    peer: bool | None = field(default=None, name="self")

    @classmethod
    def of(cls, target: Target) -> Self:
        """Return `target` as a message has it.  A pidfd is the only fd of the message, so its index is 0."""
        match target.kind:
            case TargetKind.PID:
                return cls(pid=target.pid)
            case TargetKind.TID:
                return cls(pid=target.pid, tid=target.tid)
            case TargetKind.PIDFD:
                return cls(pid_file_descriptor=0)
            case TargetKind.CONTAINER:
                return cls(container=target.value, engine=target.engine or None)
            case TargetKind.SELF:
                return cls(peer=True)
            case TargetKind.NAME:
                return cls(name=target.value)
            case TargetKind.UNIT:
                return cls(unit=target.value)
            case TargetKind.NAMESPACE:
                return cls(namespace=target.value)
            case TargetKind.PATH:
                return cls(path=target.value)

    def to_target(self) -> Target:
        """Return the target.  Raises InvalidParameter if no target or more than one is set, or it is malformed."""
        try:
            return _parse(self)
        except InvalidTarget as error:
            raise InvalidParameter("target") from error


# Most callers open the same few targets again and again.
@functools.lru_cache(_PARSED_MAX)
def _parse(spec: TargetSpec) -> Target:
    given = {field for field in spec.__struct_fields__ if getattr(spec, field) is not None}
    match sorted(given):
        case ["pid"]:
            return Target.process(spec.pid or 0)
        case ["pid", "tid"]:
            return Target.thread(spec.pid or 0, spec.tid or 0)
        case ["pid_file_descriptor"]:
            return Target(TargetKind.PIDFD)
        case ["name"]:
            return Target.named(spec.name or "")
        case ["container"] | ["container", "engine"]:
            return Target.container(spec.container or "", spec.engine or "")
        case ["unit"]:
            return Target.unit(spec.unit or "")
        case ["namespace"]:
            return Target.namespace(spec.namespace or "")
        case ["path"]:
            return Target.path(spec.path or "")
        case ["peer"] if spec.peer:
            return Target.peer()
    raise InvalidParameter("target")


class ExpectationSpec(Struct, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """An expectation as a message has it."""

    type: NamespaceType | None = None
    device: int | None = None
    inode: int | None = None
    start_time: int | None = None

    @classmethod
    def of(cls, expect: Expectation) -> Self:
        """Return `expect` as a message has it."""
        return cls(expect.type, expect.device, expect.inode, expect.start_time)

    def to_expectation(self) -> Expectation:
        """Return the expectation."""
        return Expectation(self.type, self.device, self.inode, self.start_time)
