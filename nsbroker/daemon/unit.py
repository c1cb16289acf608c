"""systemd's units: the process of one, as systemd names it over D-Bus, shown to be in the unit's control group."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import trio

from nsbroker.daemon.engines.bus import Bus, NotThere, open_bus
from nsbroker.errors import EngineUnavailable, NoSuchTarget
from nsbroker.linux.cgroup import systemd_path
from nsbroker.linux.process import Process
from nsbroker.target import Target

_SERVICE = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
# After so many processes others get their turn.
_IN_A_ROW = 16


class _Found(NamedTuple):
    """What systemd says of a unit: its control group, its processes, and how it is."""

    group: str
    numbers: Sequence[int]
    state: str


async def find(target: Target, deadline: float) -> Process:
    """The main process of a service, or the oldest of another unit (the caller's to close).

    Raises NoSuchTarget, EngineUnavailable.
    """
    try:
        with trio.fail_after(deadline):
            async with open_bus(_SERVICE, "systemd") as bus:
                found = await _ask(bus, target)
            oldest = await _pin_oldest(found)
    except trio.TooSlowError as error:
        raise EngineUnavailable("systemd", f"no answer in {deadline:g} s") from error
    if oldest is None:
        raise NoSuchTarget(str(target), f"the unit has no process: it is {found.state}")
    return oldest


async def running(deadline: float) -> list[str]:
    """The names of all units that are active.  Raises EngineUnavailable."""
    try:
        with trio.fail_after(deadline):
            async with open_bus(_SERVICE, "systemd") as bus:
                (units,) = await bus.call(_PATH, f"{_SERVICE}.Manager", "ListUnitsFiltered", "as", ["active"])
    except trio.TooSlowError as error:
        raise EngineUnavailable("systemd", f"no answer in {deadline:g} s") from error
    return [row[0] for row in units]


async def _ask(bus: Bus, target: Target) -> _Found:
    try:
        (path,) = await bus.call(_PATH, f"{_SERVICE}.Manager", "GetUnit", "s", target.value)
    except NotThere as error:
        raise NoSuchTarget(str(target), "no such unit is loaded, hence it does not run") from error
    kind = target.value.rpartition(".")[2].capitalize()
    try:
        unit = await bus.properties(path, f"{_SERVICE}.Unit")
        facts = await bus.properties(path, f"{_SERVICE}.{kind}")
    except NotThere as error:
        raise NoSuchTarget(str(target), "the unit has gone meanwhile") from error
    numbers = [facts["MainPID"]] if facts.get("MainPID") else await _processes(bus, target)
    return _Found(facts.get("ControlGroup", ""), numbers, f"{unit['ActiveState']} ({unit['SubState']})")


async def _processes(bus: Bus, target: Target) -> list[int]:
    try:
        (found,) = await bus.call(_PATH, f"{_SERVICE}.Manager", "GetUnitProcesses", "s", target.value)
    except NotThere:
        return []
    return [number for _, number, _ in found]


def _pin(number: int, group: str) -> Process | None:
    """The process, when it is in the control group."""
    try:
        process = Process.open(number)
    except OSError:
        return None
    try:
        path = systemd_path(process.cgroups())
        if group and (path == group or path.startswith(f"{group}/")):
            return process
    except OSError:
        pass
    process.close()
    return None


async def _pin_oldest(found: _Found) -> Process | None:
    """The process that started first; no other stays pinned, however many there are."""
    oldest: Process | None = None
    since = math.inf
    try:
        for count, number in enumerate(found.numbers):
            if count % _IN_A_ROW == _IN_A_ROW - 1:
                await trio.lowlevel.checkpoint()
            process = _pin(number, found.group)
            # To read it can wait for the process; whoever asks has a deadline.
            started = math.inf if process is None else await trio.to_thread.run_sync(_start_time, process, abandon_on_cancel=True)
            if process is not None and (oldest is None or started < since):
                oldest, process, since = process, oldest, started
            if process is not None:
                process.close()
    except BaseException:
        if oldest is not None:
            oldest.close()
        raise
    return oldest


def _start_time(process: Process) -> float:
    try:
        return process.start_time()
    except OSError:
        return math.inf
