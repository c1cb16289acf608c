"""One visit: a thread enters namespaces, runs a function, goes back, and ends.

Entering failed (EnterFailed), returning failed (ReturnFailed) and the function's own failure (its very exception) are
three different things.  Going back matters although the thread ends: what Python still runs on it on its way out (the
end of thread-local objects, say) must not run inside.
"""

import os
import threading
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from nsbroker.errors import EnterFailed, ReturnFailed
from nsbroker.linux.ancillary import close_all
from nsbroker.linux.setns import CLONE_FS, setns, unshare
from nsbroker.model.identity import NamespaceType

T = TypeVar("T")

# mnt last: it takes /proc and all paths away.
_ORDER = (NamespaceType.CGROUP, NamespaceType.IPC, NamespaceType.UTS, NamespaceType.NET, NamespaceType.MNT)

_WHO_CAN = {
    NamespaceType.USER: "a user namespace is entered by a process without threads",
    NamespaceType.PID: "a pid namespace is entered by children only",
    NamespaceType.TIME: "a time namespace is entered by a process without threads",
}


class Enterable(Protocol):
    """A handle of a namespace."""

    type: NamespaceType

    def fileno(self) -> int:
        """Its descriptor; ValueError when it is closed."""


def enter(space: Enterable) -> None:
    """Move the calling thread into `space` (borrowed).  Raises EnterFailed, ValueError for a closed handle."""
    _see_enterable(space.type)
    move(space.fileno(), space.type)


class Visit(Generic[T]):
    """`function(*args)` inside `namespaces`.  It holds duplicates of their descriptors: the handles may be closed meanwhile."""

    def __init__(
        self, namespaces: Iterable[Enterable], function: Callable[..., T], args: tuple[object, ...], finished: Callable[[], object]
    ) -> None:
        """`finished` is called on the visit's thread when all is over.

        Raises EnterFailed for types that no thread can enter, ValueError for a closed handle or two of one type.
        """
        spaces: dict[NamespaceType, int] = {}
        for space in namespaces:
            _see_enterable(space.type)
            if space.type in spaces:
                raise ValueError(f"two {space.type} namespaces: a thread can be in one only")
            spaces[space.type] = space.fileno()
        self._kinds = [kind for kind in _ORDER if kind in spaces]
        self._fds = [spaces[kind] for kind in self._kinds]
        self._function = function
        self._args = args
        self._finished = finished
        self._results: list[T] = []
        self._failure: BaseException | None = None

    def start(self) -> threading.Thread:
        """Start the thread.  It does not keep the process from ending."""
        self._fds = _duplicates(self._fds)
        thread = threading.Thread(target=self._run, name="inside " + " ".join(self._kinds), daemon=True)
        try:
            thread.start()
        except BaseException:
            close_all(self._fds)
            raise
        return thread

    def result(self) -> T:
        """What the function returned or raised, once all is over; EnterFailed, ReturnFailed."""
        if self._failure is not None:
            try:
                raise self._failure
            finally:
                # The exception's traceback refers to this frame: without this, both would live until the collector runs.
                self._failure = None
        return self._results.pop()

    def _run(self) -> None:
        homes: list[int] = []
        try:
            self._visit(homes)
        except BaseException as error:
            self._failure = error
        finally:
            close_all(homes)
            close_all(self._fds)
            self._finished()

    def _visit(self, homes: list[int]) -> None:
        entered: list[tuple[int, NamespaceType]] = []
        try:
            # All before the first is entered: inside a foreign mount namespace there may be no /proc.
            homes.extend(os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in self._kinds)
            for fd, home, kind in zip(self._fds, homes, self._kinds, strict=True):
                move(fd, kind)
                entered.append((home, kind))
            result = self._function(*self._args)
        except BaseException as error:
            for failure in _go_back(entered):
                error.add_note(failure)
            raise
        failures = _go_back(entered)
        if failures:
            raise ReturnFailed("; ".join(failures), result)
        self._results.append(result)


def _go_back(entered: list[tuple[int, NamespaceType]]) -> list[str]:
    """What went wrong on the way; each is tried."""
    failures = []
    for home, kind in reversed(entered):
        try:
            setns(home, kind.flag)
        except OSError as error:
            failures.append(f"the thread could not go back to its {kind} namespace, and ended: {error.strerror}")
    return failures


def _duplicates(fds: list[int]) -> list[int]:
    copies: list[int] = []
    try:
        for fd in fds:
            copies.append(os.dup(fd))  # noqa: PERF401 - what was made before a failure must be known
    except BaseException:
        close_all(copies)
        raise
    return copies


def _see_enterable(kind: NamespaceType) -> None:
    if kind in _WHO_CAN:
        raise EnterFailed(f"a thread cannot do it: {_WHO_CAN[kind]}; use `nsbroker run`, or nsenter(1) in a child process")


def move(fd: int, kind: NamespaceType) -> None:
    """Move the calling thread into the namespace `fd` (borrowed).  Raises EnterFailed with what the kernel wants."""
    try:
        if kind is NamespaceType.MNT:
            # The threads of a process share root and current directory, and such a thread may not move (EINVAL).
            unshare(CLONE_FS)
        setns(fd, kind.flag)
    except PermissionError as error:
        raise EnterFailed(f"cannot enter the {kind} namespace: it takes CAP_SYS_ADMIN, there and here") from error
    except OSError as error:
        raise EnterFailed(f"cannot enter the {kind} namespace: {error.strerror}") from error
