"""Opening a file with a timeout: on a thread, which is abandoned when it takes too long.

On many kernels, opening /proc/PID/ns/NAME blocks while that process is inside execve(2), and execve can wait for a file
system that the user controls.  Such a wait cannot be interrupted, except by ending the whole process that waits.
"""

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable

from nsbroker.linux.procfs import thread_runs

# Timeouts in seconds.  The short one applies after attempts that timed out have wasted _WASTED_MAX seconds within _PERIOD.
_TIMEOUT = 0.25
_SHORT_TIMEOUT = 0.01
_WASTED_MAX = 1.0
_PERIOD = 10.0
_ABANDONED_MAX = 64
# On a busy machine, a thread can wait for a processor for longer than that.  Nothing blocks it, so it has this many seconds.
_BUSY_MAX = 2.0


class TimedOpener:
    """Runs functions that open a file, with a timeout.

    Both the time that all callers together lose by timeouts and the number of abandoned threads are limited.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._abandoned = 0
        # For each attempt that timed out: when it did (monotonic clock), and after how many seconds.
        self._wasted: deque[tuple[float, float]] = deque()

    def open(self, function: Callable[[], int], give_up: Callable[[], object]) -> int:
        """Call `function` and return the fd (the caller's) that it opens.

        It runs with the namespaces and the credentials of the calling thread.  Raises what it raises, and TimeoutError when it
        takes too long.  When too many threads are abandoned already, or no further thread can be started, `function` is not
        called: `give_up` is called instead, and TimeoutError is raised.
        """
        with self._lock:
            full = self._abandoned >= _ABANDONED_MAX
        if full:
            give_up()
        else:
            attempt = _Attempt(function)
            # A new thread inherits the namespaces and the credentials of the thread that starts it.
            thread = threading.Thread(target=self._run, args=(attempt,), name="opening", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                give_up()
                raise TimeoutError(errno.ETIMEDOUT, f"no thread can be started to open it: {error}") from error
            timeout = self._choose_timeout()
            if _ends(attempt, thread, timeout) or not self._abandon(attempt, timeout):
                thread.join()
                return attempt.result()
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    def _choose_timeout(self) -> float:
        now = time.monotonic()
        with self._lock:
            while self._wasted and self._wasted[0][0] < now - _PERIOD:
                self._wasted.popleft()
            return _TIMEOUT if sum(seconds for _, seconds in self._wasted) < _WASTED_MAX else _SHORT_TIMEOUT

    def _abandon(self, attempt: "_Attempt", waited: float) -> bool:
        """Abandon the attempt, so that its thread closes what it opens.  Return false when the attempt has just ended."""
        with self._lock:
            if attempt.ended.is_set():
                return False
            attempt.is_abandoned = True
            self._abandoned += 1
            self._wasted.append((time.monotonic(), waited))
            return True

    def _run(self, attempt: "_Attempt") -> None:
        attempt.run()
        with self._lock:
            if attempt.is_abandoned:
                self._abandoned -= 1
            attempt.ended.set()
        if attempt.is_abandoned and attempt.fd >= 0:
            os.close(attempt.fd)


def _ends(attempt: "_Attempt", thread: threading.Thread, timeout: float) -> bool:
    """Wait until the attempt has ended; return False when its thread is blocked after `timeout` seconds."""
    end = time.monotonic() + _BUSY_MAX
    while not attempt.ended.wait(timeout):
        if time.monotonic() > end or not thread_runs(thread.native_id or 0):
            return False
    return True


class _Attempt:
    """One call of the function that opens a file, and its result."""

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
            # A stored error would keep alive the frames in its traceback, and all objects that these refer to.
            error, self._error = self._error, None
            raise error
        return self.fd
