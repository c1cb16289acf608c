"""systemd's units: the process of one, as systemd names it over D-Bus, shown to be in the unit's control group."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import trio

from nsbroker.daemon.engines.dbus import Bus, NotThere
from nsbroker.daemon.limits.abandonable_threads import AbandonableThreads
from nsbroker.daemon.limits.concurrency import UserCapacityLimiter
from nsbroker.errors import EngineUnavailable, InvalidTarget, NoSuchTarget
from nsbroker.linux.cgroup import systemd_path
from nsbroker.linux.process import Process
from nsbroker.model.target import Target

_SERVICE = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
# Questions of one user at a time; others of the same user wait for their turn.
_OF_A_USER = 2
# What the processes of most of these units are: none.
_SELDOM = (".mount", ".socket", ".swap")
_turns: trio.lowlevel.RunVar[UserCapacityLimiter] = trio.lowlevel.RunVar("whose turn it is to ask for units")


class _Found(NamedTuple):
    """What systemd says of a unit: its control group, its processes, and how it is."""

    group: str
    numbers: Sequence[int]
    state: str


async def find(target: Target, deadline: float, user: int, threads: AbandonableThreads) -> Process:
    """The main process of a service, or the oldest of another unit (the caller's to close), on behalf of `user`.

    The wait for the user's own turn does not count for `deadline`.  Raises NoSuchTarget, EngineUnavailable, QuotaExceeded.
    """
    async with _user_turns().of(user):
        try:
            with trio.fail_after(deadline):
                found = await _ask(Bus(_SERVICE, "systemd"), target)
                # To read when a process started can wait for the process.
                pin = partial(_pin_oldest, found)
                oldest = await threads.run(user, str(target), deadline, pin, _close)
        except trio.TooSlowError as error:
            raise EngineUnavailable("systemd", f"no answer in {deadline:g} s") from error
    if oldest is None:
        how = f"it is {found.state}" if found.state else "what it had has ended by now"
        raise NoSuchTarget(str(target), f"the unit has no process: {how}")
    return oldest


async def running(deadline: float, user: int) -> list[str]:
    """The names of all units that are active and can be targets, those first that most likely have processes.

    Raises EngineUnavailable.
    """
    async with _user_turns().of(user):
        try:
            with trio.fail_after(deadline):
                bus = Bus(_SERVICE, "systemd")
                (units,) = await bus.call(_PATH, f"{_SERVICE}.Manager", "ListUnitsFiltered", "as", ["active"])
        except trio.TooSlowError as error:
            raise EngineUnavailable("systemd", f"no answer in {deadline:g} s") from error
    found = []
    for name, _, _, _, state, *_ in units:
        if _can_be_target(name):
            found.append((state == "exited" or name.endswith(_SELDOM), name))
    return [name for _, name in sorted(found)]


def _user_turns() -> UserCapacityLimiter:
    try:
        return _turns.get()
    except LookupError:
        turns = UserCapacityLimiter(_OF_A_USER)
        _turns.set(turns)
        return turns


def _can_be_target(name: str) -> bool:
    """Whether it is of a kind that has processes: no slice, device, timer, target."""
    try:
        Target.unit(name)
    except InvalidTarget:
        return False
    return True


async def _ask(bus: Bus, target: Target) -> _Found:
    try:
        (path,) = await bus.call(_PATH, f"{_SERVICE}.Manager", "GetUnit", "s", target.value)
    except NotThere as error:
        raise NoSuchTarget(str(target), "no such unit is loaded, hence it does not run") from error
    kind = target.value.rpartition(".")[2].capitalize()
    try:
        # One by one: a service has three hundred properties, which would take longer than all that we want of it.
        group = await bus.property(path, f"{_SERVICE}.{kind}", "ControlGroup")
        main = await bus.property(path, f"{_SERVICE}.{kind}", "MainPID") if kind == "Service" else 0
        numbers = [main] if main else await _processes(bus, target)
        if numbers:
            return _Found(group, numbers, "")
        state = [await bus.property(path, f"{_SERVICE}.Unit", name) for name in ("ActiveState", "SubState")]
    except NotThere as error:
        raise NoSuchTarget(str(target), "the unit has gone meanwhile") from error
    return _Found(group, (), "{} ({})".format(*state))


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


def _pin_oldest(found: _Found) -> Process | None:
    """The process that started first; no other stays pinned, however many there are.  Can block."""
    oldest: tuple[int, Process] | None = None
    try:
        for number in found.numbers:
            process = _pin(number, found.group)
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
