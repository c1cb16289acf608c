"""Signals of a new process: see signal(7)."""

import signal


def drop_handlers() -> None:
    """Give signals that Python handles their default effect.  Call it in a child between fork(2) and execve(2).

    execve(2) does the same, but a handler would swallow a signal that comes before.
    """
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
