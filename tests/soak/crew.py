"""Processes that work as somebody, on one processor, count what they do, and end when they are told to."""

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
"""The processor that all attackers share: what they take of the others' time by merely running is the scheduler's doing."""
CLIENTS = 1
"""The processor of those whose calls are measured."""

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_COUNTS = struct.Struct("=QQ")
_PAUSE = 0.01


class Worker:
    """A forked process, the leader of a group of its own, that runs `work` as the user `uid` on the processor `cpu`."""

    def __init__(self, name: str, uid: int, cpu: int, work: Callable[[Callable[[int], None]], None]) -> None:
        """`work` is called with a function that counts."""
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
        """What it counted: things done, and errors that ended an attempt."""
        done, failed = _COUNTS.unpack_from(self._counts)
        return done, failed

    def has_ended(self) -> bool:
        """Whether it is gone, which none should be before `stop`."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def stop(self) -> None:
        """Kill it and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def attack(name: str, uid: int, turns: Callable[[], Iterator[int]]) -> Worker:
    """A worker that goes through `turns`, each a number of things done, for ever.  Errors of the system start them anew."""

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
        # Those who measure are woken at once, so that what they measure is the broker.
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    # A change of the uid takes both away, so they come last.  A program that a user starts is dumpable: users may look into it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1)
    if os.getppid() != parent:
        os._exit(1)
