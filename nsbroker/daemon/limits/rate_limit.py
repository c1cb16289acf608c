"""Rate limits for each user: RateLimit suppresses records above a limit, TokenBucket delays calls that make records or sockets."""

import time
from collections.abc import Iterator

from msgspec import Struct

from nsbroker.daemon.limits.users import ROOT

WINDOW = 10.0
"""The length of a user's time window, in seconds."""
MOST = 50
"""The number of records that are written for one user in one time window."""


class _Window(Struct):
    start: float
    count: int = 0


class RateLimit:
    """Counts the records of each user in a time window, and suppresses those above `MOST`."""

    def __init__(self) -> None:
        self._windows: dict[int, _Window] = {}
        self._over: dict[int, int] = {}

    def admits(self, user: int) -> bool:
        """Count one record of the user, and return whether it is to be written."""
        now = time.monotonic()
        window = self._windows.get(user)
        if window is None or now - window.start >= WINDOW:
            self._end(user)
            window = self._windows[user] = _Window(now)
        window.count += 1
        return window.count <= MOST

    def end_windows(self, *, everyone: bool = False) -> Iterator[tuple[int, int]]:
        """End the windows that are over (or, with `everyone`, all), and yield each user with the number of suppressed records.

        Users without suppressed records are left out, and each number is yielded once.
        """
        now = time.monotonic()
        for user in [user for user, window in self._windows.items() if everyone or now - window.start >= WINDOW]:
            self._end(user)
        while self._over:
            yield self._over.popitem()

    def _end(self, user: int) -> None:
        window = self._windows.pop(user, None)
        if window is not None and window.count > MOST:
            self._over[user] = self._over.get(user, 0) + window.count - MOST


REFILL_TIME = 30.0
"""The number of seconds in which a user may have `TokenBucket.most` records or sockets, as in journald's own rate limit."""
_SWEEP_AT = 1024


class TokenBucket:
    """Slows users down: each but root may have `most` at once, and then `most` in each `REFILL_TIME` seconds."""

    def __init__(self, most: int) -> None:
        self.most = most
        # The time (time.monotonic()) at which each user's bucket is full again.
        self._full: dict[int, float] = {}

    def charge(self, user: int) -> None:
        """Count one record or socket of the user."""
        if user == ROOT:
            return
        now = time.monotonic()
        if len(self._full) >= _SWEEP_AT and user not in self._full:
            self._full = {other: full for other, full in self._full.items() if full > now}
        self._full[user] = max(self._full.get(user, now), now) + REFILL_TIME / self.most

    def delay(self, user: int) -> float:
        """Return the number of seconds until the user is within the limit again."""
        full = self._full.get(user)
        return 0.0 if full is None else max(0.0, full - REFILL_TIME - time.monotonic())
