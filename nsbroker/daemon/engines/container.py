"""A container as its engine describes it, and the proof that the process it names really is the container's.

A process number from an engine is never trusted alone.  The process is pinned first.  Then its start time or its control
group must show that it belongs to the container.
"""

import enum
import re
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct

from nsbroker.errors import EngineUnavailable, NoSuchTarget
from nsbroker.linux.process import Process
from nsbroker.model.control_group import RANDOM_ID, is_containers_group
from nsbroker.model.target import PID_MAX

# Words that an engine made up.  Some engines use the id as the name, and some that register containers with machined shorten it.
# podman and docker compose name their own helpers and leftovers after the first 12 digits of an id.
_NO_NAME = re.compile(rf"([^/]+/)?({RANDOM_ID}|[0-9a-f]{{32}}|[0-9a-f]{{12}}(-infra|-service|_.*))")


class State(enum.StrEnum):
    """The state of a container.  The words that the engines use are mapped to these."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    ENDED = "ended"

    @classmethod
    def of(cls, word: str) -> "State":
        """Return the state that an engine calls `word`, in upper or lower case; ENDED for any unknown word."""
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
    State.CREATED: "the container was created but is not started yet",
    State.RESTARTING: "the container is (re)starting and has no process right now: try again",
    State.ENDED: "the container has ended: start it first",
}


class Container(Struct, frozen=True, kw_only=True, eq=False):
    """One container, as its engine describes it."""

    engine: str
    id: str
    names: tuple[str, ...]
    """The names that people and rules use; replies use the first.  Empty when the container has only a random id."""
    state: State
    pid: int = 0
    """The number of its first process, 0 without one.  It is not proved yet: see `pin`."""
    start_time: int | None = None
    """When that process started, in clock ticks since boot; None when the engine does not say."""
    groups: tuple[str, ...] = ()
    """The proof when there is no start time: a component of the process's control group path must be one of these names."""
    is_init: bool = False
    """Whether that process must also be the first process of its own PID namespace."""
    user: int = 0
    """The uid of the user who runs the engine; for machined, of the user who registered the container."""
    aliases: tuple[str, ...] = ()
    """Extra names from labels, for lookup only: rules never match them."""
    pod: str = ""
    labels: Mapping[str, str] = {}

    @property
    def target(self) -> str:
        """The target by which replies and records name it.

        A container of a user's rootless engine is marked with the uid (podman@1000:web): no rule can match it by name.
        """
        engine = f"{self.engine}@{self.user}" if self.user else self.engine
        return f"{engine}:{self.word}"

    @property
    def word(self) -> str:
        """Its first name, or its id when it has no name."""
        return self.names[0] if self.names else self.id

    def rule_names(self) -> tuple[str, ...]:
        """Return the targets that rules match against: none when another user than root chose the names."""
        if self.user:
            return ()
        # Ids are left out: they are random, so a pattern that is meant for names would match some of them by chance.
        words = [word for word in self.names if not is_random(word)]
        return tuple(f"{kind}:{word}" for word in words for kind in (self.engine, "container"))

    @property
    def pinning_blocks(self) -> bool:
        """Whether `pin` can block: /proc/PID/stat, which has the start time, does while the process is inside execve(2).

        /proc/PID/cgroup and /proc/PID/status do not.
        """
        return self.start_time is not None

    def pin(self) -> Process:
        """Pin its first process and prove that it is the container's.  The caller closes it.  Can block: see `pinning_blocks`.

        Raises NoSuchTarget when the container has no process, or another one than its engine names; EngineUnavailable when
        what the engine says cannot be right.
        """
        if not self.pid:
            if self.state in _WITHOUT_PROCESS:
                raise NoSuchTarget(self.target, _WITHOUT_PROCESS[self.state])
            raise EngineUnavailable(self.engine, f"it says that {self.word} is {self.state}, but does not name its process")
        if not 0 < self.pid <= PID_MAX:
            raise EngineUnavailable(self.engine, f"it names process {self.pid} for {self.word}, which is no valid process number")
        try:
            process = Process.open(self.pid)
        except OSError as error:
            raise NoSuchTarget(self.target, "the container's process has ended") from error
        try:
            if not self._is_proved(process):
                raise NoSuchTarget(
                    self.target,
                    f"process {self.pid}, which the engine names, is not the container's: that has ended, or the engine is wrong",
                )
        except OSError as error:
            process.close()
            raise NoSuchTarget(self.target, "the container's process has ended") from error
        except BaseException:
            process.close()
            raise
        return process

    def _is_proved(self, process: Process) -> bool:
        if self.is_init and not process.is_init():
            return False
        if self.start_time is not None:
            return process.start_time() == self.start_time
        return any(self._is_group(path) for path in process.cgroups().values())

    def own_groups(self, groups: Mapping[str, str]) -> dict[str, str]:
        """Return the container's own control group in each hierarchy, from the groups of its first process.

        The first process may be in a group below.  Hierarchies in which the container has no group of its own are left out.
        """
        found = {}
        for hierarchy, path in groups.items():
            parts = path.split("/")
            depth = next((depth for depth, part in enumerate(parts, 1) if part and part in self.groups), 0)
            if depth and self._is_group(path):
                found[hierarchy] = "/".join(parts[:depth])
        return found

    def _is_group(self, path: str) -> bool:
        return is_containers_group(path, self.groups, self.id, below_user_slice=bool(self.user))


def is_random(word: str) -> bool:
    """Return whether an engine made `word` up, so that it counts as an id and not as a name.

    A rule's pattern such as `web*` must not match it by chance.
    """
    return _NO_NAME.fullmatch(word) is not None


class Engine(Protocol):
    """One engine at one path.

    All methods query the engine anew on each call, and raise EngineUnavailable or OSError when it cannot be queried.  They
    have no deadline of their own: the caller sets one.
    """

    @property
    def name(self) -> str:
        """The engine's word in a target, such as `docker` in docker:web."""

    @property
    def place(self) -> str:
        """The path of its socket or state directory, for messages."""

    async def find(self, word: str) -> list[Container]:
        """Return the containers whose name or id is `word`, or whose id begins with it, with or without a process."""

    async def containers(self) -> list[Container]:
        """Return all containers that have a process."""


@runtime_checkable
class EngineWithIds(Engine, Protocol):
    """An engine that puts the random id of each container into the name of its control group."""

    async def find_by_ids(self, ids: Sequence[str]) -> list[Container]:
        """Return the containers that have one of these ids, with or without a process."""
