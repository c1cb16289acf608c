"""Notice at little cost that something on the host may have changed.

The kernel has no event for namespaces.  Five times a second we check two things, which takes some ten microseconds:
/proc/loadavg, whose number of tasks and last pid change whenever a process or thread begins or ends, and poll(2) on
/proc/self/mountinfo, which reports changed mounts.  Only when one of them has changed is a scan made.  The process connector
of netlink would report each fork, but it requires the host's own network and PID namespaces, and on a busy host it would wake
us for every fork.  What begins without any of these signs (unshare(2) in a process that keeps running, a socket, a
descriptor) is found by a full scan, which comes within ten seconds.
"""

import contextlib
import os
import select
from typing import NamedTuple

import trio

# Seconds between two checks.
_INTERVAL = 0.2
# Seconds after which a change is assumed even if nothing shows one.
_ANYWAY = 5.0
# Scans may take this share of the time at most, and are at least this many seconds apart.
_SHARE = 0.2
_APART = 0.25


class _Signs(NamedTuple):
    """The number of tasks and the last pid that was given to one, both without the broker's own threads."""

    tasks: int
    last: int


class ChangeDetector:
    """Tells when to scan again.  Keeps two files open while somebody watches."""

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._watchers = 0
        self._number = 0
        self._load = -1
        self._mounts = -1
        self._poll = select.poll()
        self._signs = _Signs(0, 0)
        self._last_change = 0.0
        self._mounts_changed = False

    def __enter__(self) -> "ChangeDetector":
        """Add a watcher.  The first one opens the files.  Raises OSError, and then nothing stays open."""
        if not self._watchers:
            with contextlib.ExitStack() as opened:
                self._load = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
                opened.callback(os.close, self._load)
                self._mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
                opened.callback(os.close, self._mounts)
                self._signs = self._read_signs()
                self._poll.register(self._mounts, select.POLLPRI)
                opened.pop_all()
        self._watchers += 1
        return self

    def __exit__(self, *_: object) -> None:
        """Remove a watcher.  The last one closes the files."""
        self._watchers -= 1
        if not self._watchers:
            self._poll.unregister(self._mounts)
            os.close(self._load)
            os.close(self._mounts)

    @property
    def number(self) -> int:
        """How many changes there have been.  Read it before a scan: later changes get a higher number, so `wait` reports them."""
        return self._number

    async def wait(self, seen: int, took: float) -> None:
        """Wait for a change after the one numbered `seen`.  `took`: the seconds that a scan takes."""
        if self._number > seen:
            # The task that has the lock may wait for a later change.
            await trio.lowlevel.checkpoint()
            return
        # The task that has the lock checks for all others, too.
        async with self._lock:
            while self._number <= seen:
                await trio.sleep(_INTERVAL)
                self._check(took)

    def _check(self, took: float) -> None:
        now, signs = trio.current_time(), self._read_signs()
        # poll(2) reports a change only once, so remember it until it counts.
        self._mounts_changed = self._mounts_changed or bool(self._poll.poll(0))
        if self._mounts_changed or signs != self._signs or now > self._last_change + _ANYWAY:
            pause = max(_APART, took / _SHARE)
            if now >= self._last_change + pause:
                self._last_change, self._signs, self._mounts_changed = now, signs, False
                self._number += 1

    def _read_signs(self) -> _Signs:
        fields = os.pread(self._load, 100, 0).split()
        ours = os.listdir("/proc/self/task")
        last = int(fields[4])
        # Our own threads, such as the one that scans, are no change.
        return _Signs(int(fields[3].partition(b"/")[2]) - len(ours), self._signs.last if str(last) in ours else last)
