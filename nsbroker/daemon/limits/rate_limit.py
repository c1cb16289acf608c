"""Rate limits for each user: RateLimit suppresses records above a limit, Pace delays calls that make records or sockets."""

import time
from collections.abc import Iterator

from msgspec import Struct

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

    def admits(self, uid: int) -> bool:
        """Count one record of the user, and return whether it is to be written."""
        now = time.monotonic()
        window = self._windows.get(uid)
        if window is None or now - window.start >= WINDOW:
            self._end(uid)
            window = self._windows[uid] = _Window(now)
        window.count += 1
        return window.count <= MOST

    def end_windows(self, *, everyone: bool = False) -> Iterator[tuple[int, int]]:
        """End the windows that are over (or, with `everyone`, all), and yield each user with the number of suppressed records.

        Users without suppressed records are left out, and each number is yielded once.
        """
        now = time.monotonic()
        for uid in [uid for uid, window in self._windows.items() if everyone or now - window.start >= WINDOW]:
            self._end(uid)
        while self._over:
            yield self._over.popitem()

    def _end(self, uid: int) -> None:
        window = self._windows.pop(uid, None)
        if window is not None and window.count > MOST:
            self._over[uid] = self._over.get(uid, 0) + window.count - MOST


PACE_WINDOW = 30.0
"""The number of seconds in which a user may have `Pace.most` records or sockets.  journald's own rate limit uses the same."""
_SWEEP_AT = 1024


class Pace:
    """Slows users down (a token bucket): each may have `most` at once, and then `most` in each `PACE_WINDOW` seconds."""

    def __init__(self, most: int) -> None:
        self.most = most
        # The time (time.monotonic()) at which each user's bucket is full again.
        self._full: dict[int, float] = {}

    def charge(self, user: int) -> None:
        """Count one record or socket of the user."""
        now = time.monotonic()
        if len(self._full) >= _SWEEP_AT and user not in self._full:
            self._full = {other: full for other, full in self._full.items() if full > now}
        self._full[user] = max(self._full.get(user, now), now) + PACE_WINDOW / self.most

    def delay(self, user: int) -> float:
        """Return the number of seconds until the user is within the limit again."""
        full = self._full.get(user)
        return 0.0 if full is None else max(0.0, full - PACE_WINDOW - time.monotonic())
