"""Read the command lines of processes without trusting these processes.

A command line lies in the process's own memory.  Reading it blocks until that memory is loaded, which never happens for a
page of a file system that does not answer (ps(1) hangs on such a process).  So command lines are read on abandonable threads,
with a deadline.  When a process has blocked a thread, only the names that the kernel keeps are reported for the processes of
its user, until that thread is free again.  Processes with subordinate uids are processes of the user to whom these are counted.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import trio

from nsbroker.daemon.discovery.scan_result import ScannedProcess
from nsbroker.daemon.limits.users import ROOT, user_of
from nsbroker.linux import process_table
from nsbroker.linux.process import real_user
from nsbroker.model.description import LeadingProcess

_COMMAND_MAX = 1024
_DEADLINE = 0.5
# Threads that may be blocked at once.  When all are, only the command lines of root's processes are read.
_THREADS_MAX = 16


class CommandLines:
    """Reads command lines, and remembers which users have blocked threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocked: Counter[int] = Counter()
        self._threads = trio.CapacityLimiter(_THREADS_MAX + 4)

    async def read(self, processes: Iterable[ScannedProcess]) -> Mapping[int, LeadingProcess]:
        """Return a description of each of these processes by pid, without those that blocked the reading."""
        waiting = list(processes)
        found: dict[int, LeadingProcess] = {}
        while waiting:
            reading = _Reading(waiting, self._may_read, self._unblock)
            # Shielded: a caller that hangs up must not leave a blocked thread behind that is counted for nobody.
            with trio.move_on_after(_DEADLINE, shield=True):
                await trio.to_thread.run_sync(reading.run, abandon_on_cancel=True, limiter=self._threads)
            waiting = reading.abandon(self._block)
            found |= reading.found
        return found

    def _may_read(self, user: int) -> bool:
        with self._lock:
            return not self._blocked[user] and (user == ROOT or self._blocked.total() < _THREADS_MAX)

    def _block(self, user: int) -> None:
        with self._lock:
            self._blocked[user] += 1

    def _unblock(self, user: int) -> None:
        with self._lock:
            self._blocked[user] -= 1


def read_process(process: ScannedProcess) -> LeadingProcess:
    """Return the uid and the command line of a process; if it is no longer the one that was scanned, only its name."""
    facts = process.facts
    uid, command = process_table.owner(facts.pid), process_table.command_line(facts.pid)
    now = process_table.read_facts(facts.pid)
    if uid is None or now is None or now.start_time != facts.start_time:
        # The process has ended since, and its pid may belong to another process by now.
        return name_of(process)
    return LeadingProcess(facts.pid, (command or facts.name)[:_COMMAND_MAX], uid)


def name_of(process: ScannedProcess) -> LeadingProcess:
    """Describe a process by its name alone."""
    return LeadingProcess(process.facts.pid, process.facts.name[:_COMMAND_MAX])


class _Reading:
    """The work of one thread.  When it takes too long, the thread is abandoned with the process that blocks it."""

    def __init__(
        self, processes: Sequence[ScannedProcess], may_read: Callable[[int], bool], unblock: Callable[[int], None]
    ) -> None:
        self._processes = processes
        self._may_read = may_read
        self._unblock = unblock
        self._lock = threading.Lock()
        self._at = -1
        # The user of the process that is being read right now; None in between.
        self._reading: int | None = None
        self._abandoned = False
        self.found: dict[int, LeadingProcess] = {}

    def run(self) -> None:
        for place, process in enumerate(self._processes):
            user = user_of(real_user(process.facts.pid))
            with self._lock:
                if self._abandoned:
                    return
                self._at, self._reading = place, user
            leading = read_process(process) if self._may_read(user) else name_of(process)
            with self._lock:
                self._reading = None
                if self._abandoned:
                    self._unblock(user)
                    return
                self.found[process.facts.pid] = leading
        with self._lock:
            self._at = len(self._processes)

    def abandon(self, block: Callable[[int], None]) -> list[ScannedProcess]:
        """Abandon the thread; return the processes that are still to be read, without the one that blocked it.

        `block` is called with the user of that process, if there is one: the deadline can also expire between two processes.
        """
        with self._lock:
            if self._at == len(self._processes):
                return []
            self._abandoned = True
            if self._at < 0:
                # No thread was free, so nothing was read.
                return []
            if self._reading is not None:
                block(self._reading)
            return list(self._processes[self._at + 1 :])
