"""Polling for the end of a state for which there is no event."""

from collections.abc import Callable

import trio

# In seconds.
_PAUSE = 0.002


class SharedPoll:
    """Waits while `lasts(key)` is true.

    Of all tasks that wait for the same key, one looks every two milliseconds: hundreds of tasks that each did so would keep the
    event loop busy.
    """

    def __init__(self, lasts: Callable[[int], bool]) -> None:
        self._lasts = lasts
        self._looks: dict[int, trio.Event] = {}

    async def wait(self, key: int) -> None:
        """Return when `lasts(key)` is false."""
        while self._lasts(key):
            if key in self._looks:
                await self._looks[key].wait()
            else:
                await self._look(key)

    async def _look(self, key: int) -> None:
        done = self._looks[key] = trio.Event()
        try:
            while self._lasts(key):
                await trio.sleep(_PAUSE)
        finally:
            # When this task is cancelled, one of the others goes on.
            del self._looks[key]
            done.set()
