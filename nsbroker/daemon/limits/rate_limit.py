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
