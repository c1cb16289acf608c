"""The blocking form: for scripts and threads."""

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from nsbroker.inside.visit import Enterable, Visit

T = TypeVar("T")


def call(namespaces: Iterable[Enterable], function: Callable[..., T], *args: object) -> T:
    """Run `function(*args)` inside one or several namespaces (borrowed); its result, or the very exception it raised.

    It runs on a new thread, which starts where the caller is, enters, goes back, and ends; threads that the function
    starts stay inside until they end.  A function that never returns is waited for forever; when the wait is
    interrupted (KeyboardInterrupt) the thread goes on alone and what it returns is dropped.

    Raises EnterFailed (also for user, pid and time namespaces, which no thread can enter), ReturnFailed, ValueError for
    a closed handle or two namespaces of one type, OSError at RLIMIT_NOFILE.
    """
    finished = threading.Event()
    visit = Visit(namespaces, function, args, finished.set)
    thread = visit.start()
    finished.wait()
    thread.join()
    return visit.result()
