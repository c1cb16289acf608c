"""A visit: a thread enters namespaces, runs a function, switches back to its own namespaces, and ends.

There are three different failures: the thread could not enter (EnterFailed), it could not switch back (ReturnFailed), or
the function failed (its own exception is raised unchanged).  Switching back matters although the thread ends: Python still
runs code on an ending thread, for example the finalizers of thread-local objects, and that must not run inside.
"""

import os
import threading
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from nsbroker.errors import EnterFailed, ReturnFailed
from nsbroker.linux.descriptors import close_all
from nsbroker.linux.setns import CLONE_FS, setns, unshare
from nsbroker.model.identity import NamespaceType

T = TypeVar("T")

# mnt comes last, because all paths, also those in /proc, mean other files afterwards.
_ORDER = (NamespaceType.CGROUP, NamespaceType.IPC, NamespaceType.UTS, NamespaceType.NET, NamespaceType.MNT)

_NOT_BY_THREAD = {
    NamespaceType.USER: "only a single-threaded process can enter a user namespace",
    NamespaceType.PID: "only new child processes can enter a pid namespace",
    NamespaceType.TIME: "only a single-threaded process can enter a time namespace",
}


class Enterable(Protocol):
    """The protocol of a namespace handle that a thread can enter."""

    type: NamespaceType

    def fileno(self) -> int:
        """Return its descriptor.  Raises ValueError when the handle is closed."""


def enter(ns: Enterable) -> None:
    """Move the calling thread into `ns` (borrowed) for good.  Raises EnterFailed, ValueError for a closed handle."""
    check_enterable(ns.type)
    move(ns.fileno(), ns.type)


class Visit(Generic[T]):
    """One call of `function(*args)` inside `namespaces`, on a thread of its own.

    `start` duplicates the descriptors of the handles (borrowed), so they may be closed afterwards.
    """

    def __init__(
        self, namespaces: Iterable[Enterable], function: Callable[..., T], args: tuple[object, ...], finished: Callable[[], object]
    ) -> None:
        """Prepare the visit.  `finished` is called on the visit's thread at the very end.

        Raises EnterFailed for types that no thread can enter, ValueError for a closed handle or two namespaces of one type.
        """
        fds: dict[NamespaceType, int] = {}
        for ns in namespaces:
            check_enterable(ns.type)
            if ns.type in fds:
                raise ValueError(f"two {ns.type} namespaces were given: a thread can be in one only")
            fds[ns.type] = ns.fileno()
        self._ns_types = [ns_type for ns_type in _ORDER if ns_type in fds]
        self._fds = [fds[ns_type] for ns_type in self._ns_types]
        # Whoever acquires it closes the duplicates of the descriptors: the visit's thread, or `start` when it fails.
        self._owner = threading.Lock()
        self._function = function
        self._args = args
        self._finished = finished
        self._results: list[T] = []
        self._failure: BaseException | None = None

    def start(self, thread: Callable[[Callable[[], None]], object]) -> None:
        """Start it on a new thread: `thread` starts one that calls its argument.  It should be a daemon thread.

        When `thread` raises an exception, the function runs only if its thread came first, and `finished` is called only then.
        """
        self._fds = _duplicate_fds(self._fds)
        try:
            thread(self._run)
        except BaseException:
            # When a signal handler raised the exception, the thread may run already.
            if self._owner.acquire(blocking=False):
                close_all(self._fds)
            raise

    def result(self) -> T:
        """Return what the function returned, or raise what it raised, EnterFailed or ReturnFailed.

        Call this only once, after `finished` was called.
        """
        if self._failure is not None:
            try:
                raise self._failure
            finally:
                # The exception's traceback refers to this frame, and `self` to the exception.  Without this line, the cycle
                # would keep both alive until the garbage collector runs.
                self._failure = None
        return self._results.pop()

    def _run(self) -> None:
        if not self._owner.acquire(blocking=False):
            return
        own_fds: list[int] = []
        try:
            self._visit(own_fds)
        except BaseException as error:
            self._failure = error
        finally:
            close_all(own_fds)
            close_all(self._fds)
            self._finished()

    def _visit(self, own_fds: list[int]) -> None:
        """Enter, call the function, and switch back.  Appends fds of the thread's own namespaces to `own_fds`."""
        entered: list[tuple[int, NamespaceType]] = []
        try:
            # Open all of them before entering the first: a foreign mount namespace may have no /proc.
            own_fds.extend(os.open(f"/proc/thread-self/ns/{ns_type}", os.O_RDONLY | os.O_CLOEXEC) for ns_type in self._ns_types)
            for fd, own_fd, ns_type in zip(self._fds, own_fds, self._ns_types, strict=True):
                move(fd, ns_type)
                entered.append((own_fd, ns_type))
            result = self._function(*self._args)
        except BaseException as error:
            for failure in _switch_back(entered):
                error.add_note(failure)
            raise
        failures = _switch_back(entered)
        if failures:
            raise ReturnFailed("; ".join(failures), result)
        self._results.append(result)


def _switch_back(entered: list[tuple[int, NamespaceType]]) -> list[str]:
    """Switch back to each of the thread's own namespaces, also after a failure, and return a text for each failure."""
    failures = []
    for own_fd, ns_type in reversed(entered):
        try:
            setns(own_fd, ns_type.flag)
        except OSError as error:
            failures.append(f"the thread could not go back to its {ns_type} namespace, and ended: {error.strerror}")
    return failures


def _duplicate_fds(fds: list[int]) -> list[int]:
    copies: list[int] = []
    try:
        for fd in fds:
            copies.append(os.dup(fd))  # noqa: PERF401 - after a failure, the copies made so far must be closed
    except BaseException:
        close_all(copies)
        raise
    return copies


def check_enterable(ns_type: NamespaceType) -> None:
    """Check that a thread can enter a namespace of this type.  Raises EnterFailed, which says what to do instead."""
    if ns_type in _NOT_BY_THREAD:
        raise EnterFailed(
            f"a thread cannot enter: {_NOT_BY_THREAD[ns_type]}; use `nsbroker exec`, or nsenter(1) in a child process"
        )


def move(fd: int, ns_type: NamespaceType) -> None:
    """Move the calling thread into the namespace `fd` (borrowed).  Raises EnterFailed with the reason."""
    try:
        if ns_type is NamespaceType.MNT:
            # The threads of a process share their root and current directory.  setns(2) refuses such a thread (EINVAL).
            unshare(CLONE_FS)
        setns(fd, ns_type.flag)
    except PermissionError as error:
        raise EnterFailed(
            f"cannot enter the {ns_type} namespace: this requires CAP_SYS_ADMIN, both in its user namespace and in your own"
        ) from error
    except OSError as error:
        raise EnterFailed(f"cannot enter the {ns_type} namespace: {error.strerror}") from error
