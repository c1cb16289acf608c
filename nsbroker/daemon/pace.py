"""Doing much work on a thread without slowing the event loop down.

Only one thread at a time runs Python.  The loop gives way at each of its system calls, of which a reply takes some twenty, and gets
its turn back after the switch interval.  On a busy host, it then still has to wait for a processor.  So a thread that just works
makes every reply many times as slow, and for much longer than the work itself takes.  A thread at a pace works for a moment, in
which it is not interrupted, and then leaves the loop alone.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

# In seconds.
_WORK = 0.001
_PAUSE = 0.004

Step = Callable[[], None]
"""Called between small pieces of work."""


@contextlib.contextmanager
def paced() -> Iterator[Step]:
    """Yield a function that the block, on a thread, calls after each small piece of work.  It sleeps 4 ms after each 1 ms of work.

    Only one thread may do so at a time, because the switch interval is one for the process.
    """
    before = sys.getswitchinterval()
    # Longer than the work, so that it is not interrupted.
    sys.setswitchinterval(2 * _WORK)
    since = time.monotonic()

    def step() -> None:
        nonlocal since
        if time.monotonic() - since >= _WORK:
            time.sleep(_PAUSE)
            since = time.monotonic()

    try:
        yield step
    finally:
        sys.setswitchinterval(before)


def no_pause() -> None:
    """The step of work that nobody else waits for."""
