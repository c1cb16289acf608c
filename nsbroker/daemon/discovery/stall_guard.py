"""Skip processes that have stalled a scan.

Reading almost anything about a process in /proc blocks while that process is inside execve(2), and execve(2) can wait for a
file system that the process's user made.  A scan records which process it is looking at.  When it makes no progress, its
thread is abandoned.  Until that thread is free again, scans skip all processes of that user, also those with one of the user's
subordinate uids (of root, only that process).
"""

import threading
from collections import Counter

from nsbroker.daemon.limits.users import ROOT, user_of
from nsbroker.linux.process import real_user


class Stalled(Exception):
    """The scan has been given up."""


class Progress:
    """How far a scan has got.  Shared between the thread that scans and the task that waits for it."""

    def __init__(self, guard: "StallGuard") -> None:
        self._guard = guard
        self._blamed: tuple[str, int] | None = None
        self._lock = threading.Lock()
        self._ended = False
        self.tid = 0
        self.pid = 0
        self.count = 0

    def begin(self) -> None:
        """Record that the calling thread scans."""
        self.tid = threading.get_native_id()

    def may_look(self, pid: int) -> bool:
        """Return whether the scan may look at the process, and if so record that it does.  Raises Stalled when given up."""
        if self._blamed is not None:
            raise Stalled
        if self._guard.skips(pid):
            return False
        self.pid = pid
        self.count += 1
        return True

    def give_up(self) -> None:
        """Give the scan up, and blame the process that it is looking at."""
        with self._lock:
            # A scan that has looked at nothing yet is still waiting for a thread: no process is to blame.
            if self.count and not self._ended:
                self._blamed = self._guard.blame(self.pid)

    def end(self) -> None:
        """Record that the thread is free again, and take the blame back."""
        with self._lock:
            self._ended = True
            if self._blamed is not None:
                self._guard.forgive(self._blamed)


class StallGuard:
    """Knows which users and processes are blamed for a stalled scan at present."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blamed: Counter[tuple[str, int]] = Counter()

    def skips(self, pid: int) -> bool:
        """Return whether scans must skip the process."""
        if not self._blamed:
            return False
        user = user_of(real_user(pid))
        with self._lock:
            return ("pid", pid) in self._blamed or ("user", user) in self._blamed

    def blame(self, pid: int) -> tuple[str, int]:
        """Skip the processes of its user, or only this process if the user is root or unknown.  Returns what `forgive` takes."""
        user = user_of(real_user(pid))
        whom = ("user", user) if user > ROOT else ("pid", pid)
        with self._lock:
            self._blamed[whom] += 1
        return whom

    def forgive(self, whom: tuple[str, int]) -> None:
        """Take one blame back, given what `blame` returned."""
        with self._lock:
            self._blamed[whom] -= 1
            if not self._blamed[whom]:
                del self._blamed[whom]
