"""Passes, one at a time, shared by all who ask meanwhile."""

import trio

from nsbroker.daemon.discovery import census
from nsbroker.daemon.discovery.census import Census
from nsbroker.daemon.discovery.stalls import Progress, Stalled, Stalls
from nsbroker.daemon.hints import Hints
from nsbroker.errors import QuotaExceeded

# Threads that may be held up by processes that do not let themselves be looked at.
_THREADS_MAX = 16
# Seconds without getting on.
_STALLED = 1.0


class Passes:
    """Makes passes on a thread.  `took`: the seconds that the last one took."""

    def __init__(self, hints: Hints) -> None:
        self._hints = hints
        self._stalls = Stalls()
        self._lock = trio.Lock()
        self._begun = 0
        self._made = 0
        self._shared: Census | None = None
        self._threads = trio.CapacityLimiter(_THREADS_MAX)
        self.took = 0.0

    async def fresh(self) -> Census:
        """A census that was begun after this was called."""
        before = self._begun
        async with self._lock:
            if self._shared is None or self._made <= before:
                self._begun += 1
                began = trio.current_time()
                # Whoever asks and hangs up must not leave a thread behind that nobody blames anyone for.
                with trio.CancelScope(shield=True):
                    taken = self._shared = await self._make()
                self.took = trio.current_time() - began
                self._made = self._begun
                self._hints.learn(taken.places)
            else:
                taken = self._shared
            if not self._lock.statistics().tasks_waiting:
                # It is large on large hosts; whoever asked keeps it as long as they need it.
                self._shared = None
            return taken

    async def _make(self) -> Census:
        while True:
            progress = Progress(self._stalls)
            made: list[Census] = []
            failed: list[Exception] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run, progress, made, failed, nursery.cancel_scope)
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

    async def _run(self, progress: Progress, made: list[Census], failed: list[Exception], scope: trio.CancelScope) -> None:
        def work() -> None:
            try:
                made.append(census.take(progress))
            except Stalled:
                pass
            except Exception as error:
                failed.append(error)
            finally:
                progress.end()

        await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._threads)
        scope.cancel()
