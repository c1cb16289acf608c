"""Counting what would be too much to write out."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

WINDOW = 10.0
"""Seconds that a user's count runs."""
MOST = 50
"""So many a user has written out in that time."""


@dataclass(slots=True)
class _Window:
    start: float
    count: int = 0


class RateLimit:
    """For each user: how many in the window that runs."""

    def __init__(self) -> None:
        self._windows: dict[int, _Window] = {}
        self._over: dict[int, int] = {}

    def admits(self, uid: int) -> bool:
        """Count one; whether it is among those to write out."""
        now = time.monotonic()
        window = self._windows.get(uid)
        if window is None or now - window.start >= WINDOW:
            self._end(uid)
            window = self._windows[uid] = _Window(now)
        window.count += 1
        return window.count <= MOST

    def ended(self, *, everyone: bool = False) -> Iterator[tuple[int, int]]:
        """The users whose window is over (or everyone) and who had more, with how many more; each is told once."""
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
"""Seconds in which a user may have as many as `Pace.most`; journald's own rate limit has the same."""
_SWEEP_AT = 1024


class Pace:
    """Slows users down: each may have `most` at once, and then as many in `PACE_WINDOW` seconds (a token bucket)."""

    def __init__(self, most: int) -> None:
        self.most = most
        # The moment at which a user's bucket is full again.
        self._full: dict[int, float] = {}

    def charge(self, user: int) -> None:
        """Count one."""
        now = time.monotonic()
        if len(self._full) >= _SWEEP_AT and user not in self._full:
            self._full = {one: full for one, full in self._full.items() if full > now}
        self._full[user] = max(self._full.get(user, now), now) + PACE_WINDOW / self.most

    def delay(self, user: int) -> float:
        """The seconds until the user is within the limit."""
        full = self._full.get(user)
        return 0.0 if full is None else max(0.0, full - PACE_WINDOW - time.monotonic())
