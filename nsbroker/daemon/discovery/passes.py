"""Passes, one at a time, shared by all who ask meanwhile."""

import math

import trio

from nsbroker.daemon.discovery import census
from nsbroker.daemon.discovery.census import Census
from nsbroker.daemon.hints import Hints


class Passes:
    """Makes passes on a thread.  `took`: the seconds that the last one took."""

    def __init__(self, hints: Hints) -> None:
        self._hints = hints
        self._lock = trio.Lock()
        self._begun = 0
        self._made = 0
        self._shared: Census | None = None
        self._thread = trio.CapacityLimiter(1)
        self.began = -math.inf
        self.took = 0.0

    async def fresh(self) -> Census:
        """A census that was begun after this was called."""
        before = self._begun
        async with self._lock:
            if self._shared is None or self._made <= before:
                self._begun += 1
                self.began = trio.current_time()
                self._shared = await trio.to_thread.run_sync(census.take, limiter=self._thread)
                self.took = trio.current_time() - self.began
                self._made = self._begun
                self._hints.learn(self._shared.places)
            taken = self._shared
            if not self._lock.statistics().tasks_waiting:
                # It is large on large hosts; whoever asked keeps it as long as they need it.
                self._shared = None
            return taken
