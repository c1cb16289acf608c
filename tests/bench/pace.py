"""How work is timed: in turns, so that disturbances affect all rivals alike, and by the CPU time of the server."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.bench.table import Measure, micro

_LEAST = 3
_MOST = 31
_PATIENCE = 3


def turns(seconds: float) -> Iterator[int]:
    """Yield the numbers of turns until `seconds` have passed: at least 3, at most 31.

    If turns are very slow, those that begin within three times `seconds` have to do.

    Short turns, and many of them: then a disturbance spoils few, and the median none.
    """
    end = time.monotonic() + seconds
    for number in range(_MOST):
        late = time.monotonic() - end
        if late > 0 and number and (number >= _LEAST or late > (_PATIENCE - 1) * seconds):
            return
        yield number


def rounds(work: Callable[[], object], count: int) -> list[float]:
    """Return the seconds of each of `count` runs of `work`, after some runs to warm up."""
    for _ in range(count // 10):
        work()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


class CpuTime(NamedTuple):
    """The CPU time of a process so far, in seconds: all of it exactly, and its two parts as clock ticks found them."""

    total: float
    user: float
    system: float

    @classmethod
    def of(cls, pid: int) -> "CpuTime":
        """Read those of the process `pid`, with all its threads, the ended ones too.

        See clock_getcpuclockid(3): the number of the clock is made from the pid.  Its resolution is that of the scheduler, unlike
        that of /proc/PID/stat.
        """
        total = time.clock_gettime(~pid << 3 | 2)
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        tick = os.sysconf("SC_CLK_TCK")
        return cls(total, int(fields[11]) / tick, int(fields[12]) / tick)


class Tally:
    """The times of one server's calls, and the CPU time that the server spent on each."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._cpu: list[float] = []
        self._user = 0.0
        self._system = 0.0

    def measure(self, pid: int, calls: int, work: Callable[[], list[float]]) -> None:
        """Do one turn: `work` makes `calls` calls to the server `pid` and returns the seconds of one or of each."""
        before = CpuTime.of(pid)
        times = work()
        after = CpuTime.of(pid)
        self.add(times, (after.total - before.total) / calls, after.user - before.user, after.system - before.system)

    def add(self, times: list[float], cpu: float, user: float, system: float) -> None:
        """Add one turn: seconds of calls, the server's CPU seconds of each call, and how the two parts of these compare."""
        self._times += times
        self._cpu.append(cpu)
        self._user += user
        self._system += system

    @property
    def time(self) -> float:
        """The median seconds of a call."""
        return statistics.median(self._times)

    @property
    def cpu(self) -> float:
        """The median of the server's CPU seconds for a call."""
        return statistics.median(self._cpu)

    def _parts(self) -> str:
        both = self._user + self._system
        if not both:
            return ""  # it took less than one tick of the clock
        user = self.cpu * self._user / both
        return f" ({user * 1e6:.1f} + {(self.cpu - user) * 1e6:.1f})"

    def text(self) -> str:
        """Return the time of a call, and the CPU time with its parts, in microseconds."""
        return f"{micro(self.time)}; CPU {self.cpu * 1e6:.1f}{self._parts()}"

    def timed(self, beside: "Tally | None") -> Measure:
        """Return the time of a call as a measure, with the ratio to that of another server."""
        return Measure(micro(self.time), self.time / beside.time if beside else None)

    def spent(self, beside: "Tally | None") -> Measure:
        """Return the server's CPU time of a call as a measure, with the ratio to that of another server."""
        return Measure(f"{micro(self.cpu)}{self._parts()}", self.cpu / beside.cpu if beside else None)
