"""Make clients usable in a child process after os.fork().

After a fork, parent and child share one connection, and each would read replies that are meant for the other.  So the child
closes its copy of the socket, without shutting the connection down, and connects again when it makes a call.
"""

import os
import weakref
from abc import ABC, abstractmethod


class Forked(ABC):
    """Base class of objects whose `after_fork` is called in each forked child, as long as they exist."""

    def __init__(self) -> None:
        _instances.add(self)

    @abstractmethod
    def after_fork(self) -> None:
        """Drop what belongs to the parent.  This runs in the child.

        No other thread runs in the child yet.  A lock that another thread held during the fork is never released there.
        """


_instances: "weakref.WeakSet[Forked]" = weakref.WeakSet()


def _call_after_fork() -> None:
    for instance in list(_instances):
        instance.after_fork()


os.register_at_fork(after_in_child=_call_after_fork)
