"""The queue of queries to users' rootless engines: each query starts a process, and no user may keep the host busy with these.

One process of a user runs at a time.  A pause follows, of several times the processor time that it used, so that the user's share
of a processor is small however many queries wait.  The pause is also as long as the process waited, for example because the host
is busy, so that users whose engines are silent do not take all places.  Callers with the same query share one result.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from nsbroker.daemon.engines.query import QueryResult, unraised
from nsbroker.daemon.engines.rootless import RootlessQuery, query_rootless
from nsbroker.daemon.limits.deadline import fail_after
from nsbroker.errors import EngineUnavailable

# Helper processes that run at a time, of all users together.
_AT_ONCE = 4
# Seconds of pause for each second of processor time that a user's process used.
_PAUSE = 4.0


class _Run:
    """One helper process that is to start, and the number of callers who wait for its result."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.waiting = 0
        self.result = QueryResult([], [])


class _User:
    """The runs of one user that are to come, in order.  Callers with the same query join a run that has not begun."""

    def __init__(self) -> None:
        self.runs: dict[RootlessQuery, _Run] = {}
        self.is_busy = False
        self.rests_until = 0.0


class RootlessQueue:
    """Queries users' rootless engines, one process for each user at a time, which may take `deadline` seconds."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._users: dict[int, _User] = {}
        self._at_once = trio.CapacityLimiter(_AT_ONCE)

    async def query(self, user: int, query: RootlessQuery) -> QueryResult:
        """Return what the rootless engines know, once it is the user's turn.  Engines that did not answer are among the failures.

        The result is never older than the call.
        """
        with self._join(user, query) as run:
            await run.done.wait()
            return run.result

    @contextmanager
    def _join(self, user: int, query: RootlessQuery) -> Iterator[_Run]:
        self._forget_rested()
        known = self._users.setdefault(user, _User())
        run = known.runs.setdefault(query, _Run())
        if not known.is_busy:
            known.is_busy = True
            # This must go on when the caller is gone: others may wait for the same result.
            trio.lowlevel.spawn_system_task(self._work, known)
        run.waiting += 1
        try:
            yield run
        finally:
            run.waiting -= 1

    async def _work(self, user: _User) -> None:
        try:
            while user.runs:
                await trio.sleep_until(user.rests_until)
                query = next(iter(user.runs))
                run = user.runs[query]
                if not run.waiting:
                    del user.runs[query]
                    continue
                async with self._at_once:
                    # Nobody may join from here on: a part of the result would be older than the call.
                    del user.runs[query]
                    began = trio.current_time()
                    run.result, used = await self._run(query)
                ended = trio.current_time()
                user.rests_until = ended + _PAUSE * used + max(0.0, ended - began - used)
                run.done.set()
        finally:
            user.is_busy = False

    async def _run(self, query: RootlessQuery) -> tuple[QueryResult, float]:
        """Return the result of a query, and the seconds of processor time that its process used."""
        used: list[float] = []
        try:
            with fail_after(self._deadline):
                result = await query_rootless(query, used.append)
        except trio.TooSlowError:
            result = _failed(query, f"no answer in {self._deadline:g} s")
        except EngineUnavailable as error:
            result = QueryResult([], [unraised(error)])
        except Exception as error:
            result = _failed(query, f"{type(error).__name__}: {error}")
        return result, sum(used)

    def _forget_rested(self) -> None:
        now = trio.current_time()
        self._users = {uid: user for uid, user in self._users.items() if user.is_busy or user.rests_until > now}


def _failed(query: RootlessQuery, reason: str) -> QueryResult:
    return QueryResult([], [EngineUnavailable(query.only or "rootless", f"the rootless engines of uid {query.uid}: {reason}")])
