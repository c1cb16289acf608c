"""How much of what each user has a pass looks at: nobody can make it last by having a million of something.

The first few of everything that a process has are free; what is beyond is charged to the process's real user, in looks: one
is a call to the kernel, some microseconds.  What a user has beyond that is left out of the pass.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from nsbroker.linux.process import real_user

T = TypeVar("T")

_FREE = 128
_OF_A_USER = 100_000
_OF_ROOT = 2_000_000


class Shares:
    """The shares of one pass."""

    def __init__(self) -> None:
        self._used: Counter[int] = Counter()
        self._uids: dict[int, int] = {}

    def limited(self, pid: int, looks: int, items: Iterable[T]) -> Iterator[T]:
        """As many of the `items` that the process has, each of which costs `looks`, as are free or the user's share allows."""
        free = _FREE
        for item in items:
            free -= looks
            if free < 0 and not self._draw(pid, looks):
                return
            yield item

    def drawing(self, pid: int, looks: int) -> Callable[[], bool]:
        """Something to call before each step that costs `looks`: whether the user's share allows it."""
        return lambda: self._draw(pid, looks)

    def _draw(self, pid: int, looks: int) -> bool:
        uid = self._uids.get(pid)
        if uid is None:
            uid = self._uids[pid] = real_user(pid)
        self._used[uid] += looks
        return self._used[uid] <= (_OF_ROOT if uid == 0 else _OF_A_USER)
