"""Passes, one at a time, shared by all who ask meanwhile."""

import contextlib
import math
from collections.abc import Iterator

import trio

from nsbroker.daemon.discovery import scan
from nsbroker.daemon.discovery.scan_result import Census
from nsbroker.daemon.discovery.stall_guard import Progress, Stalled, Stalls
from nsbroker.daemon.targets.location_cache import Hints
from nsbroker.errors import QuotaExceeded

# Threads that may be held up by processes that do not let themselves be looked at.
_THREADS_MAX = 16
# Seconds without getting on.
_STALLED = 1.0
# Of the time of those who watch, full passes take so much at most; quick ones come in between.
_SHARE = 0.1
_FULL_AT_LEAST = 5.0


class Passes:
    """Makes passes on a thread.  `took`: the seconds that the last one took."""

    def __init__(self, hints: Hints) -> None:
        self._hints = hints
        self._stalls = Stalls()
        self._lock = trio.Lock()
        self._begun = 0
        self._made = 0
        self._made_fully = 0
        self._shared: Census | None = None
        self._threads = trio.CapacityLimiter(_THREADS_MAX)
        self._ended = -math.inf
        self.took = 0.0
        # What quick passes build on, as long as somebody wants them, and when a full one is due.
        self._followers = 0
        self._last: Census | None = None
        self._full_due = 0.0

    async def fresh(self, *, patient: bool = False) -> Census:
        """A census that was begun after this was called.  Passes for the `patient` take half of the time at most, so that
        users who ask again and again leave some of it to everybody else.
        """
        if patient:
            await trio.sleep_until(self._ended + self.took)
        return await self._begun_from_now(quick=False)

    async def quick(self) -> Census:
        """The same, for those within `following`: mostly what has changed since the last one (`Earlier` says what that
        misses), and a full one within ten seconds, or more often where it takes little.
        """
        return await self._begun_from_now(quick=True)

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """For calling `quick` again and again: meanwhile the last census is kept."""
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1
            if not self._followers:
                self._last = None

    async def _begun_from_now(self, *, quick: bool) -> Census:
        before = self._begun
        async with self._lock:
            if self._shared is None or (self._made if quick else self._made_fully) <= before:
                taken = self._shared = await self._next(quick=quick)
            else:
                taken = self._shared
            if not self._lock.statistics().tasks_waiting:
                # It is large on large hosts; whoever asked keeps it as long as they need it.
                self._shared = None
            return taken

    async def _next(self, *, quick: bool) -> Census:
        self._begun += 1
        began = trio.current_time()
        known = self._last if quick and began < self._full_due else None
        # Whoever asks and hangs up must not leave a thread behind that nobody blames anyone for.
        with trio.CancelScope(shield=True):
            taken = await self._make(known)
        self._ended = now = trio.current_time()
        self.took = now - began
        self._made = self._begun
        if known is None:
            self._made_fully = self._made
            self._full_due = now + min(self.took / _SHARE, _FULL_AT_LEAST)
        if self._followers:
            self._last = taken
        self._hints.learn(taken.places)
        return taken

    async def _make(self, known: Census | None) -> Census:
        while True:
            progress = Progress(self._stalls)
            made: list[Census] = []
            failed: list[Exception] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run, progress, known, made, failed, nursery.cancel_scope)
                count = -1
                while count != progress.count:
                    count = progress.count
                    await trio.sleep(_STALLED)
                progress.give_up()
                nursery.cancel_scope.cancel()
            if failed:
                raise failed[0]
            if made:
                return made[0]
            if not self._threads.available_tokens:
                raise QuotaExceeded("processes that do not let themselves be looked at")

    async def _run(
        self,
        progress: Progress,
        known: Census | None,
        made: list[Census],
        failed: list[Exception],
        scope: trio.CancelScope,
    ) -> None:
        def work() -> None:
            try:
                made.append(scan.take(progress, known))
            except Stalled:
                pass
            except Exception as error:
                failed.append(error)
            finally:
                progress.end()

        await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._threads)
        scope.cancel()
