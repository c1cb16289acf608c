"""Opening something that can keep the caller waiting for another process: on a thread, which is abandoned after a while.

On many kernels, opening /proc/PID/ns/NAME waits as long as that process is in the midst of execve(2), and execve can wait for a
file system of its user's making.  Nothing but the end of the waiting thread's whole process interrupts that.
"""

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable

_PATIENCE = 0.25
_HURRIED = 0.01
# So many seconds may be waited in vain within so many, before everybody is in a hurry.
_IN_VAIN = 1.0
_PERIOD = 10.0
_ABANDONED_MAX = 64


class TimedOpener:
    """Runs functions that open a file.  What all callers together wait in vain is limited, and so are the threads left behind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._abandoned = 0
        self._vain: deque[tuple[float, float]] = deque()

    def open(self, function: Callable[[], int], give_up: Callable[[], object]) -> int:
        """The fd (the caller's) that `function` opens, with the namespaces and the credentials of the calling thread.

        Raises what it raises, and TimeoutError when it does not come to an end soon.  `give_up` is called in its place when it
        is not even begun.
        """
        with self._lock:
            full = self._abandoned >= _ABANDONED_MAX
        if full:
            give_up()
        else:
            attempt = _Attempt(function)
            # A new thread has what the thread has that starts it.
            thread = threading.Thread(target=self._run, args=(attempt,), name="opening", daemon=True)
            thread.start()
            patience = self._patience()
            if attempt.ended.wait(patience) or not self._abandon(attempt, patience):
                thread.join()
                return attempt.result()
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    def _patience(self) -> float:
        now = time.monotonic()
        with self._lock:
            while self._vain and self._vain[0][0] < now - _PERIOD:
                self._vain.popleft()
            return _PATIENCE if sum(seconds for _, seconds in self._vain) < _IN_VAIN else _HURRIED

    def _abandon(self, attempt: "_Attempt", waited: float) -> bool:
        """Whether it still has not ended; then its thread closes what it opens."""
        with self._lock:
            if attempt.ended.is_set():
                return False
            attempt.is_abandoned = True
            self._abandoned += 1
            self._vain.append((time.monotonic(), waited))
            return True

    def _run(self, attempt: "_Attempt") -> None:
        attempt.run()
        with self._lock:
            if attempt.is_abandoned:
                self._abandoned -= 1
            attempt.ended.set()
        if attempt.is_abandoned and attempt.fd >= 0:
            os.close(attempt.fd)


class _Attempt:
    """One call of `function`."""

    def __init__(self, function: Callable[[], int]) -> None:
        self._function = function
        self._error: BaseException | None = None
        self.fd = -1
        self.ended = threading.Event()
        self.is_abandoned = False

    def run(self) -> None:
        try:
            self.fd = self._function()
        except BaseException as error:
            self._error = error

    def result(self) -> int:
        if self._error is not None:
            # An error that keeps the frames that it came through would keep what they hold.
            error, self._error = self._error, None
            raise error
        return self.fd
