"""systemd's units: the process of one, as systemd names it over D-Bus, shown to be in the unit's control group."""

import trio

from nsbroker.daemon.engines.bus import Bus, NotThere, open_bus
from nsbroker.errors import EngineUnavailable, NoSuchTarget
from nsbroker.linux.cgroup import systemd_path
from nsbroker.linux.process import Process
from nsbroker.target import Target

_SERVICE = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"


async def find(target: Target, deadline: float) -> Process:
    """The main process of a service, or the oldest of another unit (the caller's to close).

    Raises NoSuchTarget, EngineUnavailable.
    """
    try:
        with trio.fail_after(deadline):
            async with open_bus(_SERVICE, "systemd") as bus:
                return await _find(bus, target)
    except trio.TooSlowError as error:
        raise EngineUnavailable("systemd", f"no answer in {deadline:g} s") from error


async def _find(bus: Bus, target: Target) -> Process:
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
    group = facts.get("ControlGroup", "")
    numbers = [facts["MainPID"]] if facts.get("MainPID") else await _processes(bus, target)
    processes = [process for number in numbers if (process := _pin(number, group)) is not None]
    if not processes:
        raise NoSuchTarget(str(target), f"the unit has no process: it is {unit['ActiveState']} ({unit['SubState']})")
    return _keep_oldest(processes)


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


def _keep_oldest(processes: list[Process]) -> Process:
    """The one that started first; closes the others."""
    ages: dict[Process, float] = {}
    for process in processes:
        try:
            ages[process] = process.start_time()
        except OSError:
            ages[process] = float("inf")
    oldest = min(ages, key=lambda process: (ages[process], process.pid))
    for process in processes:
        if process is not oldest:
            process.close()
    return oldest
