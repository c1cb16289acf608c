"""Whom a pass leaves alone: processes that have held one up.

Almost anything that /proc tells of a process waits while that process is in the midst of execve(2), and what that waits for
can be a file system of its user's making.  A pass says which process it looks at; when it does not get on, its thread is left
where it is, and until that is free again passes leave out what is that user's (of root only that process).
"""

import threading
from collections import Counter

from nsbroker.linux.process import real_user


class Stalled(Exception):
    """The pass has been given up meanwhile."""


class Progress:
    """How far a pass is.  Shared between its thread and who waits for it."""

    def __init__(self, stalls: "Stalls") -> None:
        self._stalls = stalls
        self._blamed: tuple[str, int] | None = None
        self._lock = threading.Lock()
        self._ended = False
        self.pid = 0
        self.count = 0

    def may_look(self, pid: int) -> bool:
        """Whether to look at the process; it is what the pass is at from now on.  Raises Stalled."""
        if self._blamed is not None:
            raise Stalled
        if self._stalls.leaves_out(pid):
            return False
        self.pid = pid
        self.count += 1
        return True

    def give_up(self) -> None:
        """Blame whom the pass is at."""
        with self._lock:
            # One that has looked at nothing yet waits for a thread.
            if self.count and not self._ended:
                self._blamed = self._stalls.blame(self.pid)

    def end(self) -> None:
        """The thread is free again."""
        with self._lock:
            self._ended = True
            if self._blamed is not None:
                self._stalls.forgive(self._blamed)


class Stalls:
    """Who is blamed now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blamed: Counter[tuple[str, int]] = Counter()

    def leaves_out(self, pid: int) -> bool:
        """Whether the process is to be left alone."""
        if not self._blamed:
            return False
        with self._lock:
            return ("pid", pid) in self._blamed or ("uid", real_user(pid)) in self._blamed

    def blame(self, pid: int) -> tuple[str, int]:
        """Leave its user alone, or if that is root, the process."""
        uid = real_user(pid)
        whom = ("uid", uid) if uid > 0 else ("pid", pid)
        with self._lock:
            self._blamed[whom] += 1
        return whom

    def forgive(self, whom: tuple[str, int]) -> None:
        """Take one blame back."""
        with self._lock:
            self._blamed[whom] -= 1
            if not self._blamed[whom]:
                del self._blamed[whom]
