"""Find the process of a systemd unit.  systemd names it over D-Bus; then it must be in the unit's control group."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import trio

from nsbroker.daemon.engines.dbus import Bus, NotThere
from nsbroker.daemon.limits.abandonable_threads import AbandonableThreads
from nsbroker.daemon.limits.concurrency import UserCapacityLimiter
from nsbroker.daemon.limits.deadline import fail_after
from nsbroker.errors import EngineUnavailable, InvalidTarget, NoSuchTarget
from nsbroker.linux.cgroup import systemd_path
from nsbroker.linux.process import Process
from nsbroker.model.target import Target

_SERVICE = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
# Queries of one user that run at a time; more queries of the same user wait.
_PER_USER = 2
# Most units of these types have no processes.
_RARELY_WITH_PROCESSES = (".mount", ".socket", ".swap")
_limiter: trio.lowlevel.RunVar[UserCapacityLimiter] = trio.lowlevel.RunVar("the limit of queries for units")


class _UnitProcesses(NamedTuple):
    """The control group of a unit, the numbers of its processes, and its state when it has none."""

    cgroup: str
    numbers: Sequence[int]
    state: str


async def find(target: Target, deadline: float, user: int, threads: AbandonableThreads) -> Process:
    """Pin the main process of a service, or the oldest process of another unit.  The caller closes it.

    It counts for the limits of `user`.  `deadline` is in seconds, and begins when it is this user's turn.  Raises NoSuchTarget,
    EngineUnavailable, QuotaExceeded.
    """
    async with _get_limiter().of(user):
        try:
            with fail_after(deadline):
                unit = await _query_unit(Bus(_SERVICE, "systemd"), target)
                # Reading the start time can block, so it runs on a worker thread.
                pin = partial(_pin_oldest, unit)
                oldest = await threads.run(user, str(target), deadline, pin, _close)
        except trio.TooSlowError as error:
            raise EngineUnavailable("systemd", f"no answer in {deadline:g} s") from error
    if oldest is None:
        how = f"it is {unit.state}" if unit.state else "those that it had have ended by now"
        raise NoSuchTarget(str(target), f"the unit has no process: {how}")
    return oldest


async def running(deadline: float, user: int) -> list[str]:
    """Return the names of all active units that can be targets.  Those that most likely have processes come first.

    Raises EngineUnavailable.
    """
    async with _get_limiter().of(user):
        try:
            with fail_after(deadline):
                bus = Bus(_SERVICE, "systemd")
                (units,) = await bus.call(_PATH, f"{_SERVICE}.Manager", "ListUnitsFiltered", "as", ["active"])
        except trio.TooSlowError as error:
            raise EngineUnavailable("systemd", f"no answer in {deadline:g} s") from error
    found = []
    for name, _, _, _, state, *_ in units:
        if _can_be_target(name):
            found.append((state == "exited" or name.endswith(_RARELY_WITH_PROCESSES), name))
    return [name for _, name in sorted(found)]


def _get_limiter() -> UserCapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        limiter = UserCapacityLimiter(_PER_USER)
        _limiter.set(limiter)
        return limiter


def _can_be_target(name: str) -> bool:
    """Return whether a unit is of a type that has processes, which slices, devices, timers and targets are not."""
    try:
        Target.unit(name)
    except InvalidTarget:
        return False
    return True


async def _query_unit(bus: Bus, target: Target) -> _UnitProcesses:
    try:
        (path,) = await bus.call(_PATH, f"{_SERVICE}.Manager", "GetUnit", "s", target.value)
    except NotThere as error:
        raise NoSuchTarget(str(target), "no such unit is loaded, so it does not run") from error
    unit_type = target.value.rpartition(".")[2].capitalize()
    try:
        # One by one: a service has three hundred properties, and reading all of them takes longer than reading these few.
        cgroup = await bus.property(path, f"{_SERVICE}.{unit_type}", "ControlGroup")
        main = await bus.property(path, f"{_SERVICE}.{unit_type}", "MainPID") if unit_type == "Service" else 0
        numbers = [main] if main else await _list_processes(bus, target)
        if numbers:
            return _UnitProcesses(cgroup, numbers, "")
        state = [await bus.property(path, f"{_SERVICE}.Unit", name) for name in ("ActiveState", "SubState")]
    except NotThere as error:
        raise NoSuchTarget(str(target), "the unit was unloaded while it was being looked at") from error
    return _UnitProcesses(cgroup, (), "{} ({})".format(*state))


async def _list_processes(bus: Bus, target: Target) -> list[int]:
    try:
        (found,) = await bus.call(_PATH, f"{_SERVICE}.Manager", "GetUnitProcesses", "s", target.value)
    except NotThere:
        return []
    return [number for _, number, _ in found]


def _pin(number: int, cgroup: str) -> Process | None:
    """Pin the process, or return None when it is not in the control group."""
    try:
        process = Process.open(number)
    except OSError:
        return None
    try:
        path = systemd_path(process.cgroups())
        if cgroup and (path == cgroup or path.startswith(f"{cgroup}/")):
            return process
    except OSError:
        pass
    process.close()
    return None


def _pin_oldest(unit: _UnitProcesses) -> Process | None:
    """Pin the process that started first.  No other stays pinned, however many there are.  Can block."""
    oldest: tuple[int, Process] | None = None
    try:
        for number in unit.numbers:
            process = _pin(number, unit.cgroup)
            if process is None:
                continue
            try:
                started = process.start_time()
            except OSError:
                process.close()
                continue
            except BaseException:
                process.close()
                raise
            if oldest is None or started < oldest[0]:
                oldest, process = (started, process), oldest[1] if oldest else None
            if process is not None:
                process.close()
    except BaseException:
        _close(oldest and oldest[1])
        raise
    return oldest and oldest[1]


def _close(process: Process | None) -> None:
    if process is not None:
        process.close()
