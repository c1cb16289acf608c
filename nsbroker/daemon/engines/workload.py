"""Workloads: which container of root's engines a process is in, so that rules can be for what runs in it.

A uid proves nothing in a container: its owner chooses it.  The control group does.  The engine names the container's first process,
which is pinned and proved as for a target; the process in question is in the container when it is in the same control group of
the container, or below it.  A group with the same name elsewhere does not count, since whole paths are compared.
"""

import contextlib
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import trio

from nsbroker.daemon.engines.container import Container
from nsbroker.errors import BrokerError, EngineUnavailable, NoSuchTarget
from nsbroker.linux import cgroup, process_table
from nsbroker.linux.process import Process
from nsbroker.model.control_group import RANDOM_ID, USER_SLICE

_RANDOM_ID = re.compile(RANDOM_ID)
# A container can be in a group of a pod with an id of its own, in that of another container.
_IDS_MAX = 4
# At most this many processes are looked at in one pass of the event loop.
_IN_A_ROW = 32


class Workload:
    """A container that a process is in.  Owns the pinned first process of the container; close it."""

    def __init__(self, names: Sequence[str], target: str, first: Process, groups: Mapping[str, str]) -> None:
        """Takes `first`.  `groups` are the container's own control groups by hierarchy."""
        self.names = tuple(names)
        """The targets by which rules can name it."""
        self.target = target
        """What records and people call it."""
        self.depth = _depth_of(groups)
        """How far inside it is: of two containers that a process is in, the inner one has the greater depth."""
        self._first = first
        self._groups = dict(groups)

    def contains(self, process: Process) -> bool:
        """Return whether the container is still there, and `process` (borrowed) is in it now.  Raises OSError."""
        return not self._first.has_ended() and is_inside(process.cgroups(), self._groups)

    def close(self) -> None:
        """Close the fds of the first process."""
        self._first.close()


def is_inside(groups: Mapping[str, str], own: Mapping[str, str]) -> bool:
    """Return whether a process in `groups` is in the container whose own groups are `own`: in every hierarchy, and there is one."""
    return bool(own) and all(
        groups.get(hierarchy, "/") == path or groups.get(hierarchy, "/").startswith(f"{path}/") for hierarchy, path in own.items()
    )


def ids_in(groups: Mapping[str, str]) -> list[str]:
    """Return the random ids in the paths of `groups`: the process can only be in containers with these ids, or without random ids.

    The first ones of each path count, because the container itself chooses the names of the groups below its own.  What is below
    the users' slice does not count: users choose these names, and no container of root's is there (`is_containers_group`).
    """
    above = [f"{path}/".partition(f"/{USER_SLICE}/")[0] for path in groups.values()]
    found = [identifier for path in above for identifier in _RANDOM_ID.findall(path)[:_IDS_MAX]]
    return list(dict.fromkeys(found))


async def candidates(containers: Iterable[Container], groups: Mapping[str, str]) -> list[Container]:
    """Return the containers of which a process in `groups` seems to be inside, by a look at their first processes.

    Nothing is pinned for this look, so it only tells which containers to pin.
    """
    found = []
    for number, container in enumerate(containers):
        if number % _IN_A_ROW == _IN_A_ROW - 1:
            # A host can have thousands of containers.
            await trio.lowlevel.checkpoint()
        if container.pid and not container.user:
            own = container.own_groups(cgroup.parse(process_table.control_groups(container.pid)))
            if is_inside(groups, own):
                found.append(container)
    return found


def choose(pinned: Sequence[tuple[Container, Process]], groups: Mapping[str, str]) -> Workload | None:
    """Make the workload of the innermost of some containers, whose pinned first processes this takes.

    Several engines can know the same container, such as docker and containerd: it has the names of all.  None when no container
    contains a process in `groups`, or when two innermost ones are different containers.
    """
    found: list[tuple[int, Container, Process, dict[str, str]]] = []
    workload = None
    try:
        for container, process in pinned:
            with contextlib.suppress(OSError):
                own = container.own_groups(process.cgroups())
                if is_inside(groups, own):
                    found.append((_depth_of(own), container, process, own))
        innermost = [one for one in found if one[0] == max(depth for depth, *_ in found)]
        if innermost and len({process.pid for _, _, process, _ in innermost}) == 1:
            _, container, first, own = innermost[0]
            names = dict.fromkeys(name for _, one, _, _ in innermost for name in one.rule_names())
            workload = Workload([*names], container.target, first, own)
    finally:
        for _, process in pinned:
            if workload is None or process is not first:
                process.close()
    return workload


def _depth_of(groups: Mapping[str, str]) -> int:
    return max(map(len, groups.values()), default=0)


async def pin_all(
    containers: Iterable[Container], pin: Callable[[Container], Awaitable[Process]]
) -> tuple[list[tuple[Container, Process]], list[EngineUnavailable]]:
    """Pin the first processes of containers (the caller's to close).

    Also returns an error, which is `unraised`, for each that could not be pinned although it may still be there.
    """
    pinned: list[tuple[Container, Process]] = []
    failures: list[EngineUnavailable] = []
    try:
        for container in containers:
            try:
                pinned.append((container, await pin(container)))
            except NoSuchTarget:
                continue
            except BrokerError as error:
                failures.append(EngineUnavailable(container.engine, f"{container.target} could not be looked at: {error}"))
    except BaseException:
        for _, process in pinned:
            process.close()
        raise
    return pinned, failures
