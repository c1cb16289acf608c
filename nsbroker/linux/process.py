"""A pinned process or thread: everything that is read through it belongs to that one process, even if its PID is reused.

Where the kernel has the pidfd ioctls (Linux 6.11, 6.13), facts and namespaces come from the pidfd.  On older kernels they
come from a directory fd of /proc/PID, which was opened while the pidfd showed that the process was alive.  Such an fd stops
working when its process ends, and never refers to another process.
"""

import errno
import os
from typing import Self

from nsbroker.linux import pidfd as _pidfd
from nsbroker.linux import procfs
from nsbroker.linux.features import Features, features
from nsbroker.linux.pidfd import ProcessInfo
from nsbroker.linux.timed_open import TimedOpener

_opener = TimedOpener()


class Process:
    """A process or thread, pinned by a pidfd, and by a directory fd of /proc/PID where one was needed; it owns both.

    Methods raise ESRCH once the process has ended, unless they say otherwise.
    """

    __slots__ = ("_directory", "_features", "_has_leaders_pidfd", "pid", "pidfd", "tid")

    def __init__(self, pidfd: int, pid: int, tid: int | None = None, *, known: Features | None = None) -> None:
        """Take `pidfd`.  `pid` and `tid` must be its numbers; prefer the class methods, which ensure that."""
        self.pidfd = pidfd
        self.pid = pid
        self.tid = tid
        self._directory = -1
        self._features = known or features()
        # Whether the pidfd is that of a thread's process, so that only the directory fd pins the thread itself.
        self._has_leaders_pidfd = False

    @classmethod
    def open(cls, pid: int) -> Self:
        """Pin the process `pid`.  Raises ESRCH when there is none, EINVAL when the number is that of a thread."""
        try:
            return cls(os.pidfd_open(pid), pid)
        except OSError as error:
            # For a thread that is not a thread group leader, the kernel reports EINVAL up to Linux 6.8, ENOENT later.
            if error.errno == errno.ENOENT:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from error
            raise

    @classmethod
    def open_thread(cls, pid: int, tid: int) -> Self:
        """Pin the thread `tid` of the process `pid`.  Raises ESRCH when there is none, or when it belongs to another process."""
        known = features()
        if not known.pidfd_thread:
            return cls._open_thread_by_proc(pid, tid, known)
        process = cls(os.pidfd_open(tid, _pidfd.PIDFD_THREAD), pid, tid)
        try:
            if process.info().tgid != pid:
                raise ProcessLookupError(errno.ESRCH, f"thread {tid} belongs to another process")
        except BaseException:
            process.close()
            raise
        return process

    @classmethod
    def _open_thread_by_proc(cls, pid: int, tid: int, known: Features) -> Self:
        process = cls(os.pidfd_open(pid), pid, tid, known=known)
        process._has_leaders_pidfd = True
        try:
            process._open_directory()
        except BaseException:
            process.close()
            raise
        return process

    @classmethod
    def from_pidfd(cls, pidfd: int) -> Self:
        """Pin the process or thread of `pidfd` (taken, also on error).

        Raises EINVAL when `pidfd` is not a pidfd, ESRCH when its process is gone, or in a PID namespace that we do not see.
        """
        try:
            number = procfs.pidfd_number(pidfd)
            if number <= 0:
                raise ProcessLookupError(errno.ESRCH, "the process of this pidfd has ended, or cannot be seen from here")
            process = cls(pidfd, number)
        except BaseException:
            os.close(pidfd)
            raise
        try:
            info = process.info()
        except BaseException:
            process.close()
            raise
        if info.pid != info.tgid:
            process.pid, process.tid = info.tgid, info.pid
        return process

    def info(self) -> ProcessInfo:
        """Return the current numbers and uids of the process or thread."""
        if self._features.pidfd_info:
            return _pidfd.info(self.pidfd)
        status = procfs.status(self._open_directory())
        real, effective, saved, file_system = map(int, status["Uid"].split())
        self._check_alive()
        return ProcessInfo(int(status["Pid"]), int(status["Tgid"]), (real, effective, saved, file_system))

    def open_namespace(self, ns_type: str) -> int:
        """Open the process's namespace of type `ns_type` and return an nsfs fd (the caller's, close-on-exec).

        Raises EACCES without the right to do so, and before Linux 6.11 TimeoutError while the process is inside execve(2).
        """
        if self._features.pidfd_namespaces:
            return _pidfd.open_namespace(self.pidfd, ns_type)
        # The thread that opens the namespace gets its own copy of the fd, because it can outlive this object.
        directory = self.directory()

        def open_and_close() -> int:
            try:
                return procfs.open_namespace(directory, ns_type)
            finally:
                os.close(directory)

        try:
            fd = _opener.open(open_and_close, lambda: os.close(directory))
        except FileNotFoundError as error:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from error
        try:
            self._check_alive()
        except BaseException:
            os.close(fd)
            raise
        return fd

    def prepare(self) -> None:
        """Open the directory fd that `open_namespace` can need, so that it can later be called with fewer rights."""
        if not self._features.pidfd_namespaces:
            self._open_directory()

    def start_time(self) -> int:
        """Return when the process started, in clock ticks since boot."""
        ticks = procfs.start_time(self._open_directory())
        self._check_alive()
        return ticks

    def cgroups(self) -> dict[str, str]:
        """Return its control groups by hierarchy, as `procfs.cgroups` does."""
        groups = procfs.cgroups(self._open_directory())
        self._check_alive()
        return groups

    def directory(self) -> int:
        """Return a copy (the caller's) of the directory fd of its /proc/PID."""
        return os.dup(self._open_directory())

    def is_init(self) -> bool:
        """Return whether it is the first process of a PID namespace below our own."""
        numbers = procfs.status(self._open_directory())["NSpid"].split()
        self._check_alive()
        return len(numbers) > 1 and numbers[-1] == "1"

    def effective_capabilities(self) -> int:
        """Return its effective capabilities as a bit mask (capabilities(7)).  They are valid only in its own user namespace."""
        effective = int(procfs.status(self._open_directory())["CapEff"], 16)
        self._check_alive()
        return effective

    def inode(self) -> int:
        """Return the inode number of its pidfd, which no other process ever has until the host restarts (pidfs, Linux 6.9).

        Before Linux 6.9 all pidfds have the same inode number.  Works also after the process has ended.
        """
        return os.fstat(self.pidfd).st_ino

    def has_ended(self) -> bool:
        """Return whether it has ended, reaped or not."""
        if _pidfd.has_ended(self.pidfd):
            return True
        return self._has_leaders_pidfd and self._directory >= 0 and not procfs.is_there(self._directory)

    def _check_alive(self) -> None:
        if self.has_ended():
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))

    def _open_directory(self) -> int:
        if self._directory < 0:
            try:
                directory = procfs.open_process(self.pid, self.tid)
            except FileNotFoundError as error:
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from error
            self._directory = directory
            # This check must come after opening: a PID is not reused before the process of the pidfd is reaped.
            self._check_alive()
        return self._directory

    def close(self) -> None:
        """Close the pidfd and the directory fd.  Closing twice is harmless."""
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def real_user(pid: int) -> int:
    """Return the real uid of the process `pid`, or −1 when it is gone.

    The owner of /proc/PID is no substitute: it is root for every process that is not dumpable (PR_SET_DUMPABLE in prctl(2)).
    """
    try:
        with Process.open(pid) as process:
            return process.info().uids[0]
    except OSError:
        return -1
