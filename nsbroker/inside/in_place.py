"""Running a function inside a namespace on the calling thread, which then goes back: for what is short and never waits.

A thread of its own costs many times what entering, one system call and going back cost.
"""

import os
from collections.abc import Callable
from typing import TypeVar

from nsbroker.inside.visit import Enterable, check_enterable, move
from nsbroker.linux.setns import setns

T = TypeVar("T")


def call(ns: Enterable, function: Callable[[], T]) -> T:
    """Run `function()` inside `ns` (borrowed) on the calling thread, and go back.

    `function` must neither block nor await anything.  Handlers of signals can run meanwhile, and then run inside.  They must not
    raise.

    If the thread cannot go back, the whole process ends at once: nothing else may run in a foreign namespace.  Raises EnterFailed,
    ValueError for a closed handle, and whatever the function raises.
    """
    check_enterable(ns.type)
    fd, flag = ns.fileno(), ns.type.flag
    home = os.open(f"/proc/thread-self/ns/{ns.type}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            move(fd, ns.type)
            return function()
        finally:
            # This also comes when entering has failed: an exception of a signal handler can hide whether it did.
            _go_back(home, flag)
    finally:
        os.close(home)


def _go_back(home: int, flag: int) -> None:
    try:
        setns(home, flag)
    except OSError:
        os.write(2, b"nsbroker: the thread could not go back to its own namespace, so the process ends\n")
        os._exit(os.EX_OSERR)
