"""The answers to socket(2) calls: everything that a supervisor does except waiting, and asking the broker.

A supervisor never lets a call reach the network in which the command began.  If anything goes wrong, the call fails.
"""

import contextlib
import errno
import os
import select
import socket
from collections.abc import Iterator
from typing import NamedTuple

from nsbroker.client.forking import Forked
from nsbroker.errors import (
    InvalidParameter,
    InvalidType,
    NsbrokerError,
    PermissionDenied,
    QuotaExceeded,
    SocketFailed,
)
from nsbroker.linux import pidfd, seccomp
from nsbroker.linux.features import features
from nsbroker.linux.seccomp import Notification
from nsbroker.model.socket_failure import errno_of
from nsbroker.model.socket_kind import SocketKind
from nsbroker.model.text import escaped

_TYPE_MASK = 0xF
_TYPES = 11  # SOCK_MAX in the kernel's include/linux/net.h
_FLAGS = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
# EINPROGRESS: the call has its answer already: before Linux 5.19, a signal can interrupt us after the kernel has taken it.
_GONE = (errno.ENOENT, errno.ESRCH, errno.EINPROGRESS)
# What a program is told when the broker cannot be asked, or the target has ended.
_NO_NETWORK = errno.ENETDOWN


class SocketCall(NamedTuple):
    """A call of socket(2) that the broker should carry out.  `type` is without flags."""

    id: int
    family: int
    type: int
    protocol: int
    blocking: bool
    close_on_exec: bool


class Answers(Forked):
    """Answers the calls of one command.  Takes two descriptors: the listener, and the network namespace in which it began."""

    def __init__(self, listener: int, network: int) -> None:
        self._listener = listener
        self._network = network
        self._start = _identify(network)
        self._reported: set[tuple[object, ...]] = set()
        super().__init__()

    def fileno(self) -> int:
        """Return the listener, to wait until it is readable."""
        return self._listener

    def receive(self) -> tuple[list[Notification], bool]:
        """Receive all calls that wait, without waiting for more, and return them, and whether the last process has ended.

        Call this as soon as there is something: until a call is received, any signal interrupts it.
        """
        received: list[Notification] = []
        while (events := seccomp.wait(self._listener, 0)) & select.POLLIN:
            try:
                received.append(seccomp.receive(self._listener))
            except OSError as error:
                # ENOENT: the caller was killed, or a signal interrupted it.  EINTR: a signal interrupted us.
                if error.errno not in (errno.ENOENT, errno.EINTR):
                    raise
        return received, bool(events & select.POLLHUP)

    def begin(self, notification: Notification) -> SocketCall | None:
        """Return the socket to ask the broker for, or None when the call was answered already, or its caller is gone.

        The caller then calls `give` or `fail`.
        """
        has_moved = self._has_moved(notification.tid)
        # The thread was found by its number, which can be used again once the call no longer waits.
        if not seccomp.is_valid(self._listener, notification.id):
            return None
        if has_moved:
            with _ignore_gone():
                seccomp.let_continue(self._listener, notification.id)
            return None
        flags, kind = notification.type & ~_TYPE_MASK, notification.type & _TYPE_MASK
        number = _find_fault(notification, flags, kind)
        if number:
            self._refuse(notification.id, number)
            return None
        return SocketCall(
            notification.id,
            notification.family,
            kind,
            notification.protocol,
            not flags & socket.SOCK_NONBLOCK,
            bool(flags & socket.SOCK_CLOEXEC),
        )

    def _has_moved(self, tid: int) -> bool:
        """Return whether a thread is in another network namespace than the one in which the command began.

        A thread that cannot be looked at, because it is not dumpable for example, counts as one that has not moved.
        """
        try:
            fd = _open_network(tid)
        except OSError:
            return False
        try:
            return _identify(fd) != self._start
        finally:
            os.close(fd)

    def give(self, call: SocketCall, fd: int) -> None:
        """Answer the call with a duplicate of the socket `fd` (borrowed)."""
        # The program's descriptor refers to the same open file, so it has this flag, too.
        os.set_blocking(fd, call.blocking)
        try:
            seccomp.give(self._listener, call.id, fd, close_on_exec=call.close_on_exec)
        except OSError as error:
            if error.errno not in _GONE:
                # EMFILE, for example: the program may open no more files.
                self._refuse(call.id, error.errno or _NO_NETWORK)

    def fail(self, call: SocketCall, error: Exception) -> None:
        """Let the call fail because of `error`.

        Each kind of error is reported once on standard error, except what the kernel said about the arguments of the call.
        """
        if not isinstance(error, SocketFailed):
            kind = (type(error), call.family, call.type)
            if kind not in self._reported:
                self._reported.add(kind)
                report(str(error) if isinstance(error, NsbrokerError | OSError) else f"a fault in nsbroker itself: {error!r}")
        self._refuse(call.id, _errno_for(error))

    def _refuse(self, notification: int, number: int) -> None:
        with _ignore_gone():
            seccomp.refuse(self._listener, notification, number)

    def after_fork(self) -> None:
        """Close the copies of this process: when the supervisor ends, the program's calls must fail and not wait for ever."""
        self.close()

    def close(self) -> None:
        """Close both descriptors.  Calls that wait, and later ones, fail with ENOSYS.  Closing twice is harmless."""
        fds = [fd for fd in (self._listener, self._network) if fd >= 0]
        self._listener = self._network = -1
        for fd in fds:
            os.close(fd)


def report(text: str) -> None:
    """Print one line on standard error, beside what the command prints there.  It is lost when standard error is closed."""
    line = f"nsbroker: {escaped(' '.join(text.split()))}\n"
    with contextlib.suppress(OSError):
        os.write(2, line.encode(errors="backslashreplace"))


def _find_fault(notification: Notification, flags: int, kind: int) -> int:
    """Return the errno with which the kernel refuses these arguments, or 0 when the broker can be asked."""
    if flags & ~_FLAGS or kind >= _TYPES:
        return errno.EINVAL
    try:
        SocketKind.of_numbers(notification.family, kind)
    except InvalidType:
        return errno.ESOCKTNOSUPPORT
    if notification.protocol < 0:
        return errno.EPROTONOSUPPORT if notification.family == socket.AF_NETLINK else errno.EINVAL
    return 0


def _errno_for(error: Exception) -> int:
    """Return the errno that tells a program about `error`."""
    match error:
        case PermissionDenied():
            return errno.EACCES
        case SocketFailed():
            return errno_of(error.reason) or _NO_NETWORK
        case QuotaExceeded():
            return errno.ENOBUFS
        case InvalidParameter():
            return errno.EINVAL
        case NsbrokerError():
            return _NO_NETWORK
        case OSError():
            return error.errno or _NO_NETWORK
    return _NO_NETWORK


def _open_network(tid: int) -> int:
    """Open the network namespace of a thread and return an nsfs fd (the caller's).

    The number is not pinned, so the caller checks afterwards that the thread's call still waits.  Raises OSError.
    """
    known = features()
    if not (known.pidfd_thread and known.pidfd_namespaces):
        # /proc can be that of another PID namespace, in which the same number is another thread.
        if os.readlink("/proc/self") != str(os.getpid()):
            raise OSError(errno.ESRCH, "the mounted /proc is of another PID namespace")
        return os.open(f"/proc/{tid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    thread = os.pidfd_open(tid, pidfd.PIDFD_THREAD)
    try:
        return pidfd.open_namespace(thread, "net")
    finally:
        os.close(thread)


def _identify(fd: int) -> tuple[int, int]:
    facts = os.fstat(fd)
    return facts.st_dev, facts.st_ino


@contextlib.contextmanager
def _ignore_gone() -> Iterator[None]:
    """Ignore that the call no longer waits: its caller was killed, or a signal interrupted it, or it was answered."""
    try:
        yield
    except OSError as error:
        if error.errno not in _GONE:
            raise
