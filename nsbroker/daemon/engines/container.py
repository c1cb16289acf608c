"""What an engine says of a container, and how that is held against the process it names.

No number that an engine gives is believed alone: the process is pinned first, and then shown to be the container's, by
the time it started or the control group it is in.
"""

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from nsbroker.errors import EngineUnavailable, NoSuchTarget
from nsbroker.linux.process import Process
from nsbroker.model.target import PID_MAX

_RANDOM_ID = "[0-9a-f]{64}"
# What engines make up: ids, which some use as names, too (also cut off by those that register containers with machined), and
# what podman and docker compose call their own helpers and leftovers, which begins with a part of an id.
_NO_NAME = re.compile(rf"([^/]+/)?({_RANDOM_ID}|[0-9a-f]{{32}}|[0-9a-f]{{12}}(-infra|-service|_.*))")
_ANY_CONTAINER = re.compile(rf"lxc\.payload\..*|((docker|cri-containerd|libpod)-)?{_RANDOM_ID}(\.scope)?")


class State(enum.StrEnum):
    """What a container does; the engines' own words, brought down to these."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    ENDED = "ended"

    @classmethod
    def of(cls, word: str) -> "State":
        """What an engine calls `word`, in any case."""
        return _STATES.get(word.lower(), cls.ENDED)


_STATES = {
    "created": State.CREATED,
    "initialized": State.CREATED,
    "configured": State.CREATED,
    "running": State.RUNNING,
    "ready": State.RUNNING,
    "stopping": State.RUNNING,
    "paused": State.PAUSED,
    "frozen": State.PAUSED,
    "freezing": State.PAUSED,
    "thawed": State.RUNNING,
    "restarting": State.RESTARTING,
    "starting": State.RESTARTING,
    "opening": State.RESTARTING,
}
_WITHOUT_PROCESS = {
    State.CREATED: "the container was created, and not started yet",
    State.RESTARTING: "the container is (re)starting and has no process right now: try again",
    State.ENDED: "the container has ended: start it first",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Container:
    """One container, as its engine describes it."""

    engine: str
    id: str
    names: tuple[str, ...]
    """How people call it, and rules; the first is the one that answers use.  None where it has only a random id."""
    state: State
    pid: int = 0
    """Its first process, 0 without one: a number, to be pinned and proved."""
    start_time: int | None = None
    """When that process started, in clock ticks since boot, where the engine says so."""
    groups: tuple[str, ...] = ()
    """Otherwise: names that a component of its control group has one of."""
    is_init: bool = False
    """Whether that process has to be the first of a PID namespace of its own."""
    user: int = 0
    """Who runs the engine."""
    aliases: tuple[str, ...] = ()
    """What it is found by, too, but what others than its engine's users gave: no names for rules."""
    pod: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """How answers and records name it.  What a user's own engine says is told apart: no rule can mean it by name."""
        engine = f"{self.engine}@{self.user}" if self.user else self.engine
        return f"{engine}:{self.word}"

    @property
    def word(self) -> str:
        """What people call it: its first name, or its id where it has none."""
        return self.names[0] if self.names else self.id

    def rule_names(self) -> tuple[str, ...]:
        """The targets by which a rule may name it: none where anybody but root gives the names."""
        if self.user:
            return ()
        # Not by id: ids are random, and a pattern for names would fit some of them by chance.
        words = [word for word in self.names if not is_random(word)]
        return tuple(f"{kind}:{word}" for word in words for kind in (self.engine, "container"))

    def pin(self) -> Process:
        """Its first process, proved to be that (the caller's to close).  Raises NoSuchTarget, EngineUnavailable."""
        if not self.pid:
            if self.state in _WITHOUT_PROCESS:
                raise NoSuchTarget(self.target, _WITHOUT_PROCESS[self.state])
            raise EngineUnavailable(self.engine, f"says that {self.word} is {self.state}, but not as which process")
        if not 0 < self.pid <= PID_MAX:
            raise EngineUnavailable(self.engine, f"says that {self.word} is process {self.pid}, which cannot be")
        try:
            process = Process.open(self.pid)
        except OSError as error:
            raise NoSuchTarget(self.target, "the container's process has ended") from error
        try:
            if not self._is(process):
                raise NoSuchTarget(
                    self.target,
                    f"process {self.pid}, which the engine names, is not the container's: it has ended, or the engine errs",
                )
        except OSError as error:
            process.close()
            raise NoSuchTarget(self.target, "the container's process has ended") from error
        except BaseException:
            process.close()
            raise
        return process

    def _is(self, process: Process) -> bool:
        if self.is_init and not process.is_init():
            return False
        if self.start_time is not None:
            return process.start_time() == self.start_time
        return any(self._is_group(path) for path in process.cgroups().values())

    def _is_group(self, path: str) -> bool:
        # Below a container's group its own processes give the names, and below a user's slice the user does: only the
        # first counts that looks like a container's.
        form = "|".join(re.escape(group).replace(self.id, _RANDOM_ID) for group in self.groups)
        for part in path.split("/"):
            if part in self.groups:
                return True
            if re.fullmatch(form, part) or _ANY_CONTAINER.fullmatch(part) or (part == "user.slice" and not self.user):
                return False
        return False


def is_random(word: str) -> bool:
    """Whether an engine made `word` up, so that it is an id and no name: `web*` must not fit it by chance."""
    return _NO_NAME.fullmatch(word) is not None


class Engine(Protocol):
    """One engine, at one place.  Both methods ask anew each time, and raise EngineUnavailable or OSError when it cannot
    be asked; whoever calls sets the deadline.
    """

    @property
    def name(self) -> str:
        """Its word in a target."""

    @property
    def place(self) -> str:
        """Where it is, for people."""

    async def find(self, word: str) -> list[Container]:
        """The containers whose name or id is `word`, or whose id begins with it, with or without a process."""

    async def containers(self) -> list[Container]:
        """All that have a process."""
