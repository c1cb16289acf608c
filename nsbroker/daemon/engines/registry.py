"""The registry of the engines on this host.  It queries each with a deadline of its own, so that none delays another."""

import contextlib
import functools
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

import trio

from nsbroker.daemon.engines import workload
from nsbroker.daemon.engines.container import Container, Engine, EngineWithIds
from nsbroker.daemon.engines.query import EngineQuery, QueryResult, unraised
from nsbroker.daemon.engines.rootless import RootlessQuery, may_run_rootless
from nsbroker.daemon.engines.rootless_queue import RootlessQueue
from nsbroker.daemon.engines.workload import Workload
from nsbroker.daemon.limits.abandonable_threads import AbandonableThreads
from nsbroker.daemon.limits.concurrency import UserCapacityLimiter
from nsbroker.daemon.limits.deadline import fail_after
from nsbroker.errors import AmbiguousTarget, EngineUnavailable, NoSuchTarget
from nsbroker.linux.process import Process
from nsbroker.model.target import ENGINES, Target, is_container_name

# Queries of one user that run at a time; more queries of the same user wait.
_PER_USER = 2
# Seconds for which a probe in the background waits for an engine that missed its deadline.  Until the probe ends, only queries
# that name the engine wait for it.
_PROBE_SECONDS = 10.0

Ask = Callable[[Engine], Awaitable[list[Container]]]


class _Instance:
    """One engine of root's at one path.  `is_silent`: it missed its deadline, and has not answered since."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.is_silent = False


class EngineRegistry:
    """The engines of this host.

    `places` are the configured paths by the engine's name; an empty list turns an engine off.  `deadline` is the time in seconds
    that an engine has to answer.
    """

    def __init__(self, places: Mapping[str, Sequence[str]], deadline: float, threads: AbandonableThreads) -> None:
        self.places = places
        self.deadline = deadline
        self._instances: dict[tuple[str, str], _Instance] = {}
        self._limiter = UserCapacityLimiter(_PER_USER)
        self._threads = threads
        self._rootless = RootlessQueue(deadline)

    async def find(self, target: Target, query: EngineQuery) -> tuple[Container, Process]:
        """Find the one container that `target` means to the peer behind `query`, and pin its first process (the caller's to close).

        Engines of root's come first.  Containers of theirs that the peer may not know of are ignored, and change no result.
        Raises NoSuchTarget, AmbiguousTarget, EngineUnavailable.
        """
        container = await self._find(target, query)
        try:
            return container, await self.pin(container, query.user)
        except NoSuchTarget:
            if not container.pid:
                raise
        # The container may have been restarted after the engine answered and before its process was pinned.
        container = await self._find(target, query)
        return container, await self.pin(container, query.user)

    async def pin(self, container: Container, user: int) -> Process:
        """Pin the container's first process (the caller's to close), as `Container.pin` does.

        What can block runs on a worker thread that counts for `user`.  Raises NoSuchTarget, EngineUnavailable.
        """
        if not container.pinning_blocks:
            return container.pin()
        try:
            return await self._threads.run(user, container.target, self.deadline, container.pin, Process.close)
        except trio.TooSlowError as error:
            raise EngineUnavailable(
                container.engine, f"the first process of {container.target} blocked the reading of its /proc entry"
            ) from error

    async def _find(self, target: Target, query: EngineQuery) -> Container:
        word, engine = target.value, target.engine
        result = await self._query_root(lambda engine: engine.find(word), engine, query)
        best = _select_best(distinct(filter(query.may_know, result.containers)), word)
        if result.failures and not engine:
            # The engine that could not be queried may have the container that is meant, or another one of the same name.
            raise unraised(result.failures[0])
        if not best:
            rootless = await self._query_rootless(word, engine, query)
            best = _select_best(distinct(rootless.containers), word)
            result.failures.extend(rootless.failures)
        if len(best) > 1:
            raise AmbiguousTarget(str(target), _candidates(best))
        if best:
            return best[0]
        if result.failures:
            raise unraised(result.failures[0])
        raise NoSuchTarget(str(target), "no container has that name or id, or an id that begins with it")

    async def list(self, query: EngineQuery) -> QueryResult:
        """List all containers with a process, of root's engines and of the peer's rootless ones; some come from several engines."""
        root = await self._query_root(lambda engine: engine.containers(), "", query)
        rootless = await self._query_rootless("", "", query)
        return QueryResult(root.containers + rootless.containers, root.failures + rootless.failures)

    async def find_workload(self, process: Process, query: EngineQuery) -> tuple[Workload | None, Sequence[EngineUnavailable]]:
        """Find the container of root's engines that `process` (borrowed) is in; the workload is the caller's to close.

        Only engines that `query.may_name` are asked, about as few containers as possible.  Also returns an error for each engine
        that could not be asked.  Raises OSError.
        """
        groups = process.cgroups()
        ids = workload.ids_in(groups)

        async def ask(engine: Engine) -> list[Container]:
            if isinstance(engine, EngineWithIds):
                return await engine.find_by_ids(ids) if ids else []
            return await engine.containers()

        result = await self._query_root(ask, "", query)
        candidates = await workload.candidates(result.containers, groups)
        pinned, failures = await workload.pin_all(candidates, lambda container: self.pin(container, query.user))
        found = workload.choose(pinned, groups)
        try:
            # The process may have moved, or the container may have ended, while we looked.
            if found is not None and not found.contains(process):
                found.close()
                found = None
        except BaseException:
            if found is not None:
                found.close()
            raise
        return found, result.failures + failures

    async def _query_root(self, ask: Ask, name: str, query: EngineQuery) -> QueryResult:
        result = QueryResult([], [])
        names = [name] if name else ENGINES
        present = [instance for engine in names if query.may_name(engine) for instance in self._instances_of(engine)]
        if name and not present and not (query.with_rootless and may_run_rootless(query.uid)):
            reason = (
                self._explain_absence(name) if query.may_name(name) else "no rule names it for this user, who has no engine either"
            )
            raise EngineUnavailable(name, reason)
        asked = [instance for instance in present if name or not instance.is_silent]
        result.failures.extend(
            EngineUnavailable(instance.engine.name, "did not answer in time a moment ago")
            for instance in present
            if instance not in asked
        )
        async with self._limiter.of(query.user):
            if len(asked) == 1:
                await self._query_one(ask, asked[0], result)
            else:
                async with trio.open_nursery() as nursery:
                    for instance in asked:
                        nursery.start_soon(self._query_one, ask, instance, result)
        return result

    async def _query_one(self, ask: Ask, instance: _Instance, result: QueryResult) -> None:
        engine = instance.engine
        try:
            with fail_after(self.deadline):
                found = await ask(engine)
        except trio.TooSlowError:
            if not instance.is_silent:
                instance.is_silent = True
                # This must go on when the caller is gone: later queries depend on whether the engine answers again.
                trio.lowlevel.spawn_system_task(_probe, ask, instance)
            result.failures.append(EngineUnavailable(engine.name, f"{engine.place}: no answer in {self.deadline:g} s"))
            return
        except EngineUnavailable as error:
            result.failures.append(unraised(error))
        except OSError as error:
            result.failures.append(EngineUnavailable(engine.name, f"{engine.place}: {error.strerror or error}"))
        except Exception as error:
            # An error in one engine must not fail the query to the others.
            result.failures.append(EngineUnavailable(engine.name, f"{engine.place}: {type(error).__name__}: {error}"))
        else:
            # machined also has machines that users registered, where they may.  These do not count as root's.
            result.containers.extend(one for one in found if one.user == 0 and _has_valid_names(one))
        instance.is_silent = False

    async def _query_rootless(self, word: str, name: str, query: EngineQuery) -> QueryResult:
        if not query.with_rootless or not may_run_rootless(query.uid):
            return QueryResult([], [])
        off = tuple(engine for engine, places in self.places.items() if not places)
        result = await self._rootless.query(query.user, RootlessQuery(query.uid, query.gid, word, name, off))
        return QueryResult([container for container in result.containers if _has_valid_names(container)], result.failures)

    def _explain_absence(self, name: str) -> str:
        places = self.places.get(name)
        if places == []:
            return "turned off in the configuration"
        module = _module(name)
        missing = [need for need in _needs(module) if not os.path.exists(need)]
        return f"not found on this host: no {' or '.join(missing or places or module.PLACES)}"

    def _instances_of(self, name: str) -> Iterator[_Instance]:
        configured = self.places.get(name)
        module = _module(name)
        if not all(map(os.path.exists, _needs(module))):
            return iter(())
        places = module.PLACES if configured is None else configured
        return (self._get_instance(name, place) for place in places if os.path.exists(place))

    def _get_instance(self, name: str, place: str) -> _Instance:
        known = self._instances.get((name, place))
        if known is None:
            engine = _module(name).engine(Path(place), 0)
            known = self._instances[name, place] = _Instance(engine)
        return known


async def _probe(ask: Ask, instance: _Instance) -> None:
    """Wait a while longer for an engine that missed its deadline, until it answers or fails."""
    try:
        with trio.move_on_after(_PROBE_SECONDS), contextlib.suppress(Exception):
            await ask(instance.engine)
    finally:
        instance.is_silent = False


@functools.cache
def _module(name: str) -> ModuleType:
    """Return the module of an engine.  It is imported when the first query needs it."""
    return import_module(f"{__package__}.{name}")


def _needs(module: ModuleType) -> Sequence[str]:
    """Return the paths that must exist beside an engine's own before it can be queried."""
    needs: Sequence[str] = getattr(module, "NEEDS", ())
    return needs


def _has_valid_names(container: Container) -> bool:
    return all(map(is_container_name, (*container.names, *container.aliases, container.id)))


def distinct(containers: Iterable[Container]) -> list[Container]:
    """Return one container for each process.

    A container of docker is one of containerd and of runc, too.  The engine that people run it with is kept: it is the first in
    ENGINES.
    """
    found: dict[object, Container] = {}
    for container in sorted(containers, key=lambda one: ENGINES.index(one.engine)):
        found.setdefault(container.pid or (container.engine, container.user, container.id), container)
    return list(found.values())


def _select_best(containers: Sequence[Container], word: str) -> list[Container]:
    """Return those that match `word` best: by name, else by id, else by the beginning of the id.

    When some of these have a process, only those are returned.
    """
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
