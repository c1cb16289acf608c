"""A pinned process or thread: everything read through it is of that one process, however its number is used again.

Where the kernel has the pidfd ioctls (6.11, 6.13), facts and namespaces come from the pidfd.  On older ones they come
from a directory fd of /proc/PID, opened while the pidfd showed that the process lived: such an fd goes dead with its
process and never comes to mean another.
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
    """Owns a pidfd, and a directory fd where one was needed.  All methods raise ESRCH once the process has ended."""

    __slots__ = ("_directory", "_features", "_is_leaders", "pid", "pidfd", "tid")

    def __init__(self, pidfd: int, pid: int, tid: int | None = None, *, known: Features | None = None) -> None:
        """Takes `pidfd`.  `pid` and `tid` are its numbers; prefer the class methods, which see to that."""
        self.pidfd = pidfd
        self.pid = pid
        self.tid = tid
        self._directory = -1
        self._features = known or features()
        # Whether a thread is pinned by the pidfd of its process, and itself by the directory alone.
        self._is_leaders = False

    @classmethod
    def open(cls, pid: int) -> Self:
        """Pin the process `pid`.  ESRCH: none; EINVAL: the number is a thread's, not a process's."""
        try:
            return cls(os.pidfd_open(pid), pid)
        except OSError as error:
            # A thread that leads no process: EINVAL up to Linux 6.8, ENOENT later.
            if error.errno == errno.ENOENT:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from error
            raise

    @classmethod
    def open_thread(cls, pid: int, tid: int) -> Self:
        """Pin the thread `tid` of the process `pid`.  ESRCH: none, or a thread of another process."""
        known = features()
        if not known.pidfd_thread:
            return cls._open_thread_by_proc(pid, tid, known)
        process = cls(os.pidfd_open(tid, _pidfd.PIDFD_THREAD), pid, tid)
        try:
            if process.info().tgid != pid:
                raise ProcessLookupError(errno.ESRCH, f"thread {tid} is of another process")
        except BaseException:
            process.close()
            raise
        return process

    @classmethod
    def _open_thread_by_proc(cls, pid: int, tid: int, known: Features) -> Self:
        process = cls(os.pidfd_open(pid), pid, tid, known=known)
        process._is_leaders = True
        try:
            process._open_directory()
        except BaseException:
            process.close()
            raise
        return process

    @classmethod
    def from_pidfd(cls, pidfd: int) -> Self:
        """Take `pidfd`, also on error.  EINVAL: it is no pidfd; ESRCH: its process is gone, or out of our sight."""
        try:
            number = procfs.pidfd_number(pidfd)
            if number <= 0:
                raise ProcessLookupError(errno.ESRCH, "the process of this pidfd has ended, or cannot be seen from here")
            process = cls(pidfd, number)
        except BaseException:
            os.close(pidfd)
            raise
        try:
            who = process.info()
        except BaseException:
            process.close()
            raise
        if who.pid != who.tgid:
            process.pid, process.tid = who.tgid, who.pid
        return process

    def info(self) -> ProcessInfo:
        """Its numbers and uids, now."""
        if self._features.pidfd_info:
            return _pidfd.info(self.pidfd)
        status = procfs.status(self._open_directory())
        real, effective, saved, file_system = map(int, status["Uid"].split())
        self._see_alive()
        return ProcessInfo(int(status["Pid"]), int(status["Tgid"]), (real, effective, saved, file_system))

    def open_namespace(self, kind: str) -> int:
        """An nsfs fd (the caller's, close-on-exec) of the namespace of type `kind` that it is in.

        EACCES: no right.  TimeoutError, before Linux 6.11: the process is in the midst of execve(2).
        """
        if self._features.pidfd_namespaces:
            return _pidfd.open_namespace(self.pidfd, kind)
        # The thread that opens has a copy: what it is at may outlast us.
        directory = self.directory()

        def open_and_close() -> int:
            try:
                return procfs.open_namespace(directory, kind)
            finally:
                os.close(directory)

        try:
            fd = _opener.open(open_and_close, lambda: os.close(directory))
        except FileNotFoundError as error:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from error
        try:
            self._see_alive()
        except BaseException:
            os.close(fd)
            raise
        return fd

    def prepare(self) -> None:
        """Open what `open_namespace` needs, so that it can be called with fewer rights."""
        if not self._features.pidfd_namespaces:
            self._open_directory()

    def start_time(self) -> int:
        """When it started, in clock ticks since boot."""
        ticks = procfs.start_time(self._open_directory())
        self._see_alive()
        return ticks

    def cgroups(self) -> dict[str, str]:
        """Its control groups by hierarchy, as `procfs.cgroups` gives them."""
        groups = procfs.cgroups(self._open_directory())
        self._see_alive()
        return groups

    def directory(self) -> int:
        """A copy (the caller's) of the directory fd of its /proc/PID."""
        return os.dup(self._open_directory())

    def is_init(self) -> bool:
        """Whether it is the first process of a PID namespace below our own."""
        numbers = procfs.status(self._open_directory())["NSpid"].split()
        self._see_alive()
        return len(numbers) > 1 and numbers[-1] == "1"

    def effective_capabilities(self) -> int:
        """Its effective capabilities (capabilities(7)), one bit each, which count in its own user namespace alone."""
        effective = int(procfs.status(self._open_directory())["CapEff"], 16)
        self._see_alive()
        return effective

    def has_ended(self) -> bool:
        """Whether it has ended, reaped or not."""
        if _pidfd.has_ended(self.pidfd):
            return True
        return self._is_leaders and self._directory >= 0 and not procfs.is_there(self._directory)

    def _see_alive(self) -> None:
        if self.has_ended():
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))

    def _open_directory(self) -> int:
        if self._directory < 0:
            try:
                directory = procfs.open_process(self.pid, self.tid)
            except FileNotFoundError as error:
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from error
            self._directory = directory
            # Only now: as long as the pidfd's process is not reaped, its number is not another's.
            self._see_alive()
        return self._directory

    def close(self) -> None:
        """Let go of the process.  Twice is harmless."""
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
    """The real uid of the process `pid`, −1 when it has gone.

    The owner that /proc shows is root for every process that is not dumpable (PR_SET_DUMPABLE in prctl(2)).
    """
    try:
        with Process.open(pid) as process:
            return process.info().uids[0]
    except OSError:
        return -1
