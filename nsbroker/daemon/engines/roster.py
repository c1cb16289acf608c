"""Which engines there are, and asking them: each within its own deadline, none at another's cost."""

import math
import os
import pwd
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import trio

from nsbroker.daemon.engines.container import Container, Engine
from nsbroker.errors import AmbiguousTarget, EngineUnavailable, NoSuchTarget
from nsbroker.linux.process import Process
from nsbroker.target import ENGINES, Target, is_container_name

_AT_ONCE = 16
# After an engine did not answer in time, only those who name it wait for it, for so many seconds.
_LEFT_ALONE = 10.0

Ask = Callable[[Engine], Awaitable[list[Container]]]
MayKnow = Callable[[Container], bool]
"""Whether the rules let the peer know of a container."""


class Survey(NamedTuple):
    """What the engines said: containers, and which engines could not be asked."""

    containers: list[Container]
    failures: list[EngineUnavailable]


class _Instance:
    """One engine at one place."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.limit = trio.CapacityLimiter(_AT_ONCE)
        self.silent_until = -math.inf


class Roster:
    """The engines of this host.  `places` are the configured ones by engine's name; an empty list turns an engine off."""

    def __init__(self, places: Mapping[str, Sequence[str]], deadline: float) -> None:
        self._places = places
        self.deadline = deadline
        self._instances: dict[tuple[str, str], _Instance] = {}

    async def find(self, target: Target, uid: int, may_know: MayKnow) -> tuple[Container, Process]:
        """The one container that `target` means to `uid`, and its first process, proved (the caller's to close).

        What the peer may not know of is left out before anything is counted, so it does not change the answer.  Raises
        NoSuchTarget, AmbiguousTarget, EngineUnavailable.
        """
        container = await self._find(target, uid, may_know)
        try:
            return container, container.pin()
        except NoSuchTarget:
            if not container.pid:
                raise
        # It may have been restarted between the engine's answer and our look at the process.
        container = await self._find(target, uid, may_know)
        return container, container.pin()

    async def _find(self, target: Target, uid: int, may_know: MayKnow) -> Container:
        word = target.value
        survey = await self._ask(lambda engine: engine.find(word), target.engine, uid)
        best = _best(distinct(filter(may_know, survey.containers)), word)
        if len(best) > 1:
            raise AmbiguousTarget(str(target), _candidates(best))
        if best:
            return best[0]
        if survey.failures:
            raise survey.failures[0]
        raise NoSuchTarget(str(target), "no container has that name or id, nor an id that begins so")

    async def survey(self, uid: int) -> Survey:
        """All containers with a process, of root's engines and of `uid`'s own; some of them by several engines."""
        return await self._ask(lambda engine: engine.containers(), "", uid)

    async def _ask(self, ask: Ask, name: str, uid: int) -> Survey:
        survey = Survey([], [])
        present = list(self._present(name, uid))
        if name and not present:
            raise EngineUnavailable(name, self._absence(name))
        async with trio.open_nursery() as nursery:
            for instance in present:
                if name or trio.current_time() >= instance.silent_until:
                    nursery.start_soon(self._ask_one, ask, instance, survey, uid)
                else:
                    survey.failures.append(EngineUnavailable(instance.engine.name, "did not answer in time a moment ago"))
        return survey

    async def _ask_one(self, ask: Ask, instance: _Instance, survey: Survey, uid: int) -> None:
        engine = instance.engine
        try:
            with trio.fail_after(self.deadline):
                async with instance.limit:
                    found = await ask(engine)
            survey.containers.extend(one for one in found if one.user in (0, uid) and _is_named_well(one))
            instance.silent_until = -math.inf
        except trio.TooSlowError:
            instance.silent_until = trio.current_time() + _LEFT_ALONE
            survey.failures.append(EngineUnavailable(engine.name, f"{engine.place}: no answer in {self.deadline:g} s"))
        except EngineUnavailable as error:
            survey.failures.append(error)
        except OSError as error:
            survey.failures.append(EngineUnavailable(engine.name, f"{engine.place}: {error.strerror or error}"))

    def _absence(self, name: str) -> str:
        places = self._places.get(name)
        if places == []:
            return "turned off in the configuration"
        where = " or ".join(places or import_module(f"{__package__}.{name}").PLACES)
        return f"not found on this host: no {where}"

    def _present(self, only: str, uid: int) -> Iterator[_Instance]:
        for name in (only,) if only else ENGINES:
            module = import_module(f"{__package__}.{name}")
            configured = self._places.get(name)
            for place in module.PLACES if configured is None else configured:
                if os.path.exists(place):
                    yield self._instance(name, place)
            if uid and configured != []:
                for pattern in module.USER_PLACES:
                    place = _of_user(pattern, uid)
                    if place is not None:
                        yield _Instance(module.engine(place, uid))

    def _instance(self, name: str, place: str) -> _Instance:
        known = self._instances.get((name, place))
        if known is None:
            engine = import_module(f"{__package__}.{name}").engine(Path(place), 0)
            known = self._instances[name, place] = _Instance(engine)
        return known


def _of_user(pattern: str, uid: int) -> Path | None:
    home = ""
    if "{home}" in pattern:
        try:
            home = pwd.getpwuid(uid).pw_dir
        except KeyError:
            return None
    place = Path(pattern.format(home=home, runtime=f"/run/user/{uid}"))
    return place if place.is_absolute() and place.exists() else None


def _is_named_well(container: Container) -> bool:
    return all(map(is_container_name, (*container.names, container.id)))


def distinct(containers: Iterable[Container]) -> list[Container]:
    """One for each process: docker's containers are containerd's and runc's, too.  Who people run them with comes first."""
    found: dict[object, Container] = {}
    for container in sorted(containers, key=lambda one: ENGINES.index(one.engine)):
        found.setdefault(container.pid or (container.engine, container.user, container.id), container)
    return list(found.values())


def _best(containers: Sequence[Container], word: str) -> list[Container]:
    ranks: dict[int, list[Container]] = {}
    for container in containers:
        rank = 0 if word in container.names else 1 if word == container.id else 2
        ranks.setdefault(rank, []).append(container)
    return ranks[min(ranks)] if ranks else []


def _candidates(containers: Sequence[Container]) -> list[str]:
    targets = [f"{container.engine}:{container.names[0]}" for container in containers]
    return sorted(
        target if targets.count(target) == 1 else f"{container.engine}:{container.id}"
        for target, container in zip(targets, containers, strict=True)
    )
