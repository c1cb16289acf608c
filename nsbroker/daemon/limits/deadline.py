"""Deadlines that raise TooSlowError, as those of trio do, and leave nothing for the garbage collector.

trio.fail_after() is a generator.  With Python 3.12 and later, the error that ends the wait then refers to itself through a frame
of contextlib, and stays in memory, with all frames that waited, until a full collection.  The broker makes these rare.
"""

from types import TracebackType

import trio


class Deadline:
    """A context manager that raises TooSlowError if `scope` ends the body because its deadline has passed."""

    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope

    def __enter__(self) -> trio.CancelScope:
        return self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        is_caught = self._scope.__exit__(kind, error, traceback)
        if self._scope.cancelled_caught:
            raise trio.TooSlowError
        return is_caught


def fail_after(seconds: float) -> Deadline:
    """Let the body take at most `seconds`.  Raises TooSlowError."""
    return Deadline(trio.move_on_after(seconds))


def fail_at(time: float) -> Deadline:
    """Let the body take until `time` on trio's clock.  Raises TooSlowError."""
    return Deadline(trio.move_on_at(time))
