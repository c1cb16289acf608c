"""Polling for the end of a state for which there is no event."""

from collections.abc import Callable

import trio

from nsbroker.daemon.limits.concurrency import UserCapacityLimiter

# In seconds.
_PAUSE = 0.002


class SharedPoll:
    """Waits while `lasts(key)` is true.

    Of all tasks that wait for the same key, one looks every two milliseconds.  When the state is over, this task goes on, and only
    then does the next one look.  Hundreds of tasks that each looked, or that were all woken although the first one that goes on
    brings the state back, would keep the event loop busy.
    """

    def __init__(self, lasts: Callable[[int], bool]) -> None:
        self._lasts = lasts
        self._looking = UserCapacityLimiter(1)

    async def wait(self, key: int) -> None:
        """Return when `lasts(key)` is false.  Tasks that wait for the same key go on in the order of their calls."""
        async with self._looking.of(key):
            while self._lasts(key):
                await trio.sleep(_PAUSE)
