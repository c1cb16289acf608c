"""A limit for the time of what somebody waits for, whatever it is doing by then."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class TimeIsUp(Exception):
    """The time is over."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeIsUp after `seconds`, wherever the block is then.  Use it in the main thread."""
    before = signal.signal(signal.SIGALRM, _end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of signal handlers
    raise TimeIsUp
