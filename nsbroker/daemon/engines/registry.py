"""Which engines there are, and asking them: each within its own deadline, none at another's cost."""

import contextlib
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import trio

from nsbroker.daemon.engines.container import Container, Engine
from nsbroker.daemon.engines.query import Survey
from nsbroker.daemon.engines.rootless import OwnQuestion, may_have_own
from nsbroker.daemon.engines.rootless_queue import OwnQueue
from nsbroker.daemon.limits.abandonable_threads import AbandonableThreads
from nsbroker.daemon.limits.concurrency import UserCapacityLimiter
from nsbroker.errors import AmbiguousTarget, EngineUnavailable, NoSuchTarget
from nsbroker.linux.process import Process
from nsbroker.model.target import ENGINES, Target, is_container_name

# Questions of one user at a time; others of the same user wait for their turn.
_OF_A_USER = 2
# An engine that did not answer in time is waited for so much longer, in seconds, on nobody's behalf; until then, only those
# who name it wait for it, too.
_PROBE = 10.0

Ask = Callable[[Engine], Awaitable[list[Container]]]


class Asker(NamedTuple):
    """On whose behalf engines are asked, and what the rules let this peer know of."""

    user: int
    """Whom their use of the broker is counted to."""
    uid: int
    gid: int
    has_own: bool
    """Whether the peer's own engines, too: its uid is known, and rules allow what is its own."""
    may_name: Callable[[str], bool]
    """Whether a rule has a pattern for containers of an engine."""
    may_know: Callable[[Container], bool]
    """Whether a rule names a container."""


class _Instance:
    """One engine of root's at one place."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.is_silent = False


class Roster:
    """The engines of this host.  `places` are the configured ones by engine's name; an empty list turns an engine off."""

    def __init__(self, places: Mapping[str, Sequence[str]], deadline: float, threads: AbandonableThreads) -> None:
        self._places = places
        self.deadline = deadline
        self._instances: dict[tuple[str, str], _Instance] = {}
        self._turns = UserCapacityLimiter(_OF_A_USER)
        self._threads = threads
        self._own = OwnQueue(deadline)

    async def find(self, target: Target, asker: Asker) -> tuple[Container, Process]:
        """The one container that `target` means to the asker, and its first process, proved (the caller's to close).

        Root's engines come first, as far as the rules let the peer know of what they have: what it may not know of does
        not change the answer.  Raises NoSuchTarget, AmbiguousTarget, EngineUnavailable.
        """
        container = await self._find(target, asker)
        try:
            return container, await self.pin(container, asker.user)
        except NoSuchTarget:
            if not container.pid:
                raise
        # It may have been restarted between the engine's answer and our look at the process.
        container = await self._find(target, asker)
        return container, await self.pin(container, asker.user)

    async def pin(self, container: Container, user: int) -> Process:
        """Its first process, proved (the caller's to close): on a thread, since the proof can wait for the process.

        Raises NoSuchTarget, EngineUnavailable.
        """
        try:
            return await self._threads.run(user, container.target, self.deadline, container.pin, Process.close)
        except trio.TooSlowError as error:
            raise EngineUnavailable(
                container.engine, f"the first process of {container.target} does not let itself be looked at"
            ) from error

    async def _find(self, target: Target, asker: Asker) -> Container:
        word, engine = target.value, target.engine
        survey = await self._ask_roots(lambda engine: engine.find(word), engine, asker)
        best = _best(distinct(filter(asker.may_know, survey.containers)), word)
        if survey.failures and not engine:
            # The one that cannot be asked may have what is meant, or another of the same name.
            raise survey.failures[0]
        if not best:
            own = await self._ask_own(word, engine, asker)
            best = _best(distinct(own.containers), word)
            survey.failures.extend(own.failures)
        if len(best) > 1:
            raise AmbiguousTarget(str(target), _candidates(best))
        if best:
            return best[0]
        if survey.failures:
            raise survey.failures[0]
        raise NoSuchTarget(str(target), "no container has that name or id, nor an id that begins so")

    async def survey(self, asker: Asker) -> Survey:
        """All containers with a process, of root's engines and of the asker's own; some of them by several engines."""
        roots = await self._ask_roots(lambda engine: engine.containers(), "", asker)
        own = await self._ask_own("", "", asker)
        return Survey(roots.containers + own.containers, roots.failures + own.failures)

    async def _ask_roots(self, ask: Ask, name: str, asker: Asker) -> Survey:
        survey = Survey([], [])
        names = [name] if name else ENGINES
        present = [instance for one in names if asker.may_name(one) for instance in self._present(one)]
        if name and not present and not (asker.has_own and may_have_own(asker.uid)):
            raise EngineUnavailable(name, self._absence(name))
        async with self._turns.of(asker.user), trio.open_nursery() as nursery:
            for instance in present:
                if name or not instance.is_silent:
                    nursery.start_soon(self._ask_one, ask, instance, survey)
                else:
                    survey.failures.append(EngineUnavailable(instance.engine.name, "did not answer in time a moment ago"))
        return survey

    async def _ask_one(self, ask: Ask, instance: _Instance, survey: Survey) -> None:
        engine = instance.engine
        try:
            with trio.fail_after(self.deadline):
                found = await ask(engine)
        except trio.TooSlowError:
            if not instance.is_silent:
                instance.is_silent = True
                # Not the caller's task: the next ones want to know when it answers again.
                trio.lowlevel.spawn_system_task(_probe, ask, instance)
            survey.failures.append(EngineUnavailable(engine.name, f"{engine.place}: no answer in {self.deadline:g} s"))
            return
        except EngineUnavailable as error:
            survey.failures.append(error)
        except OSError as error:
            survey.failures.append(EngineUnavailable(engine.name, f"{engine.place}: {error.strerror or error}"))
        except Exception as error:
            # One engine's fault is not another's.
            survey.failures.append(EngineUnavailable(engine.name, f"{engine.place}: {type(error).__name__}: {error}"))
        else:
            # machined tells whose a machine is, where users may register them: those are nobody's here.
            survey.containers.extend(one for one in found if one.user == 0 and _is_named_well(one))
        instance.is_silent = False

    async def _ask_own(self, word: str, name: str, asker: Asker) -> Survey:
        if not asker.has_own or not may_have_own(asker.uid):
            return Survey([], [])
        off = tuple(engine for engine, places in self._places.items() if not places)
        said = await self._own.ask(asker.user, OwnQuestion(asker.uid, asker.gid, word, name, off))
        return Survey([container for container in said.containers if _is_named_well(container)], said.failures)

    def _absence(self, name: str) -> str:
        places = self._places.get(name)
        if places == []:
            return "turned off in the configuration"
        module = import_module(f"{__package__}.{name}")
        missing = [need for need in _needs(module) if not os.path.exists(need)]
        return f"not found on this host: no {' or '.join(missing or places or module.PLACES)}"

    def _present(self, name: str) -> Iterator[_Instance]:
        configured = self._places.get(name)
        module = import_module(f"{__package__}.{name}")
        if not all(map(os.path.exists, _needs(module))):
            return iter(())
        places = module.PLACES if configured is None else configured
        return (self._instance(name, place) for place in places if os.path.exists(place))

    def _instance(self, name: str, place: str) -> _Instance:
        known = self._instances.get((name, place))
        if known is None:
            engine = import_module(f"{__package__}.{name}").engine(Path(place), 0)
            known = self._instances[name, place] = _Instance(engine)
        return known


async def _probe(ask: Ask, instance: _Instance) -> None:
    """Wait on for an engine that missed its deadline, until it answers or fails."""
    try:
        with trio.move_on_after(_PROBE), contextlib.suppress(Exception):
            await ask(instance.engine)
    finally:
        instance.is_silent = False


def _needs(module: ModuleType) -> Sequence[str]:
    """What has to be there beside an engine's places, so that it can be asked at all."""
    needs: Sequence[str] = getattr(module, "NEEDS", ())
    return needs


def _is_named_well(container: Container) -> bool:
    return all(map(is_container_name, (*container.names, *container.aliases, container.id)))


def distinct(containers: Iterable[Container]) -> list[Container]:
    """One for each process: docker's containers are containerd's and runc's, too.  Who people run them with comes first."""
    found: dict[object, Container] = {}
    for container in sorted(containers, key=lambda one: ENGINES.index(one.engine)):
        found.setdefault(container.pid or (container.engine, container.user, container.id), container)
    return list(found.values())


def _best(containers: Sequence[Container], word: str) -> list[Container]:
    """Those that fit `word` best; of these the ones with a process, where any has one."""
    ranks: dict[int, list[Container]] = {}
    for container in containers:
        rank = 0 if word in (*container.names, *container.aliases) else 1 if word == container.id else 2
        ranks.setdefault(rank, []).append(container)
    best = ranks[min(ranks)] if ranks else []
    return [container for container in best if container.pid] or best


def _candidates(containers: Sequence[Container]) -> list[str]:
    targets = [f"{container.engine}:{container.word}" for container in containers]
    return sorted(
        target if targets.count(target) == 1 else f"{container.engine}:{container.id}"
        for target, container in zip(targets, containers, strict=True)
    )
