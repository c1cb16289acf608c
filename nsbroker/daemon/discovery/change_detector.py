"""Noticing that something may have changed, for next to nothing.

The kernel has no event for namespaces.  Five times a second two things are looked at that change whenever a process or
thread begins or ends (/proc/loadavg: how many there are, and the last number given), or a mount does (poll(2) of
/proc/self/mountinfo): some ten microseconds.  Only then is a pass made.  The process connector of netlink would tell of
each fork, but takes the host's own network and PID namespace, and on a busy host wakes us for every one of them.  What
begins without any of that (unshare(2) in a process that goes on, a socket, a descriptor) is found by a full pass, which comes
within ten seconds.
"""

import os
import select
from typing import NamedTuple

import trio

_LOOK = 0.2
_ANYWAY = 5.0
# Of the time, passes may take so much at most; and they are so many seconds apart.
_SHARE = 0.2
_APART = 0.25


class _Signs(NamedTuple):
    """How many tasks there are, and the last number given to one, as far as it was not by us."""

    tasks: int
    last: int


class Changes:
    """Tells when to look again.  Owns two files while somebody watches."""

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._watchers = 0
        self._number = 0
        self._load = -1
        self._mounts = -1
        self._poll = select.poll()
        self._signs = _Signs(0, 0)
        self._looked = 0.0
        self._mounted = False

    def __enter__(self) -> "Changes":
        """Somebody watches."""
        if not self._watchers:
            self._load = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
            self._mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
            self._poll.register(self._mounts, select.POLLPRI)
            self._signs = self._read()
        self._watchers += 1
        return self

    def __exit__(self, *_: object) -> None:
        """Somebody watches no more."""
        self._watchers -= 1
        if not self._watchers:
            self._poll.unregister(self._mounts)
            os.close(self._load)
            os.close(self._mounts)

    @property
    def number(self) -> int:
        """How many changes there have been: what was seen before the number was read is of that change or an earlier one."""
        return self._number

    async def wait(self, seen: int, took: float) -> None:
        """Wait until there has been a change after the one numbered `seen`.  `took`: seconds that a pass takes."""
        # Whoever has the lock looks for all.
        async with self._lock:
            while self._number <= seen:
                await trio.sleep(_LOOK)
                self._look(took)

    def _look(self, took: float) -> None:
        now, signs = trio.current_time(), self._read()
        # The kernel tells it once.
        self._mounted = self._mounted or bool(self._poll.poll(0))
        if self._mounted or signs != self._signs or now > self._looked + _ANYWAY:
            pause = max(_APART, took / _SHARE)
            if now >= self._looked + pause:
                self._looked, self._signs, self._mounted = now, signs, False
                self._number += 1

    def _read(self) -> _Signs:
        fields = os.pread(self._load, 100, 0).split()
        ours = os.listdir("/proc/self/task")
        last = int(fields[4])
        # The thread of our own pass is no change.
        return _Signs(int(fields[3].partition(b"/")[2]) - len(ours), self._signs.last if str(last) in ours else last)
