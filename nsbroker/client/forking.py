"""What becomes of clients in a child that os.fork() made.

Parent and child have the same connection then, and each would read answers that are meant for the other.  So the child
closes its copies, without shutting anything down, and whatever uses them connects anew.
"""

import os
import weakref
from abc import ABC, abstractmethod


class Forked(ABC):
    """Something that has to be told, in the child, that the process was forked.  It is told as long as it exists."""

    def __init__(self) -> None:
        _everything.add(self)

    @abstractmethod
    def after_fork(self) -> None:
        """Let go of what is the parent's.  No other thread runs in the child yet, and none that held a lock ever will."""


_everything: "weakref.WeakSet[Forked]" = weakref.WeakSet()


def _tell_everything() -> None:
    for one in list(_everything):
        one.after_fork()


os.register_at_fork(after_in_child=_tell_everything)
