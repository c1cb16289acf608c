"""Running a function inside namespaces, for scripts and threads."""

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from nsbroker.inside.visit import Enterable, Visit

T = TypeVar("T")


def call(namespaces: Iterable[Enterable], function: Callable[..., T], *args: object) -> T:
    """Run `function(*args)` inside one or several namespaces (borrowed), and return its result or raise its exception.

    The function runs on a new thread, which starts in the caller's namespaces, enters the given ones, switches back and ends.
    Threads that the function starts stay inside until they end.  There is no timeout: a function that never returns blocks
    the caller for ever.  When the wait is interrupted (KeyboardInterrupt), the thread runs the function to its end, and the
    result is dropped.

    Raises EnterFailed (also for user, pid and time namespaces, which no thread can enter), ReturnFailed, ValueError for a
    closed handle or two namespaces of one type, OSError at RLIMIT_NOFILE.
    """
    finished = threading.Event()
    threads: list[threading.Thread] = []

    def start(run: Callable[[], None]) -> None:
        threads.append(threading.Thread(target=run, name="inside", daemon=True))
        threads[0].start()

    visit = Visit(namespaces, function, args, finished.set)
    visit.start(start)
    finished.wait()
    threads[0].join()
    return visit.result()
