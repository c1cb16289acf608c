"""Limit how much a scan looks at for each user, so that nobody can slow it down by having a million of something.

The first few items of everything that a process has are free.  The rest is charged to the real user of the process, in looks:
one look is a system call, which takes some microseconds.  What exceeds the user's budget is left out of the scan.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from nsbroker.linux.process import real_user

T = TypeVar("T")

_FREE_LOOKS = 128
_LOOKS_PER_USER = 100_000
_LOOKS_FOR_ROOT = 2_000_000


class ScanBudget:
    """The budgets of all users for one scan."""

    def __init__(self) -> None:
        self._used: Counter[int] = Counter()
        self._uids: dict[int, int] = {}

    def limited(self, pid: int, looks: int, items: Iterable[T]) -> Iterator[T]:
        """Yield as many of the process's `items`, at `looks` each, as are free or within the budget of its user."""
        free = _FREE_LOOKS
        for item in items:
            free -= looks
            if free < 0 and not self._charge(pid, looks):
                return
            yield item

    def drawing(self, pid: int, looks: int) -> Callable[[], bool]:
        """Return a function that charges `looks` to the user; call it before each step.  It returns whether the budget allows
        the step.
        """
        return lambda: self._charge(pid, looks)

    def _charge(self, pid: int, looks: int) -> bool:
        uid = self._uids.get(pid)
        if uid is None:
            uid = self._uids[pid] = real_user(pid)
        self._used[uid] += looks
        return self._used[uid] <= (_LOOKS_FOR_ROOT if uid == 0 else _LOOKS_PER_USER)
