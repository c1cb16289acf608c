"""Worker processes: each runs as a user on one processor, and counts what it does until it is stopped."""

import contextlib
import ctypes
import mmap
import os
import resource
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Self

ATTACKERS = 0
"""The processor that all attackers share, so that they do not slow down others merely by running."""
CLIENTS = 1
"""The processor of the clients whose calls are measured."""

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_COUNTS = struct.Struct("=QQ")
_PAUSE = 0.01


class Worker:
    """A forked process that runs `work` as the user `uid` on the processor `cpu`.  It leads a process group of its own."""

    def __init__(self, name: str, uid: int, cpu: int, work: Callable[[Callable[[int], None]], None]) -> None:
        """Start the process.  `work` is called with a function that counts what was done."""
        self.name = name
        self._counts = mmap.mmap(-1, _COUNTS.size)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _become(uid, cpu, parent)
                work(self._count)
                os._exit(0)
            except BaseException:
                print(f"{name}: {traceback.format_exc()}", file=sys.stderr, flush=True)
            finally:
                os._exit(1)
        with contextlib.suppress(OSError):
            os.setpgid(self.pid, self.pid)

    def _count(self, done: int, failed: int = 0) -> None:
        before, errors = _COUNTS.unpack_from(self._counts)
        _COUNTS.pack_into(self._counts, 0, before + done, errors + failed)

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of things done, and of errors that ended an attempt."""
        done, failed = _COUNTS.unpack_from(self._counts)
        return done, failed

    def has_ended(self) -> bool:
        """Return whether the process has ended.  None should before `stop`."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def stop(self) -> None:
        """Kill the process and its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def attack(name: str, uid: int, turns: Callable[[], Iterator[int]]) -> Worker:
    """Start a worker that iterates over `turns` for ever; each turn yields how much it did.  An OSError starts them anew."""

    def work(count: Callable[..., None]) -> None:
        while True:
            try:
                for done in turns():
                    count(done)
            except OSError:
                count(0, 1)
                time.sleep(_PAUSE)

    return Worker(name, uid, ATTACKERS, work)


def _become(uid: int, cpu: int, parent: int) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.sched_setaffinity(0, {cpu % (os.cpu_count() or 1)})
    if cpu == CLIENTS:
        # Real-time priority wakes the clients at once, so that they measure the broker and not the scheduler.
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    # A change of the uid resets both, so they come last.  A program that a user starts is dumpable: the user may look into it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1)
    if os.getppid() != parent:
        os._exit(1)
