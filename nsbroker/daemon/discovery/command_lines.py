"""What processes run, read without trusting them.

A command line lies in the process's own memory, and reading it waits for whatever that is made of: a page of a file system
that never answers, say (ps(1) hangs on such a process).  So it is read on threads that can be spared, with a deadline; who
has held one up is, until that thread is free again, told by the name that the kernel keeps.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import trio

from nsbroker.daemon.discovery.scan_result import Member
from nsbroker.linux import process_table
from nsbroker.linux.process import real_user
from nsbroker.model.description import LeadingProcess

_COMMAND_MAX = 1024
_DEADLINE = 0.5
# Threads that may be held up; if all are, only root's processes are asked.
_THREADS_MAX = 16


class Commands:
    """Reads command lines."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held_up: Counter[int] = Counter()
        self._threads = trio.CapacityLimiter(_THREADS_MAX + 4)

    async def of(self, members: Iterable[Member]) -> Mapping[int, LeadingProcess]:
        """These processes by their numbers, as far as they let themselves be looked at."""
        waiting = list(members)
        found: dict[int, LeadingProcess] = {}
        while waiting:
            reading = _Reading(waiting, self._may_ask, self._release)
            # Shielded: whoever asks and hangs up must not leave a thread behind that counts for nobody.
            with trio.move_on_after(_DEADLINE, shield=True):
                await trio.to_thread.run_sync(reading.run, abandon_on_cancel=True, limiter=self._threads)
            waiting = reading.leave(self._hold)
            found |= reading.found
        return found

    def _may_ask(self, uid: int) -> bool:
        with self._lock:
            return not self._held_up[uid] and (uid == 0 or self._held_up.total() < _THREADS_MAX)

    def _hold(self, uid: int) -> None:
        with self._lock:
            self._held_up[uid] += 1

    def _release(self, uid: int) -> None:
        with self._lock:
            self._held_up[uid] -= 1


def look_at(member: Member) -> LeadingProcess:
    """Who a process is and what it runs, if it is still the one that was seen."""
    facts = member.facts
    uid, command = process_table.owner(facts.pid), process_table.command_line(facts.pid)
    now = process_table.read_facts(facts.pid)
    if uid is None or now is None or now.start_time != facts.start_time:
        # It has ended since, and its number may be another's.
        return name_of(member)
    return LeadingProcess(facts.pid, (command or facts.name)[:_COMMAND_MAX], uid)


def name_of(member: Member) -> LeadingProcess:
    """A process of which no more is known than its name."""
    return LeadingProcess(member.facts.pid, member.facts.name[:_COMMAND_MAX])


class _Reading:
    """One thread's work.  When it takes too long it is left alone with the process that it waits for."""

    def __init__(self, members: Sequence[Member], may_ask: Callable[[int], bool], release: Callable[[int], None]) -> None:
        self._members = members
        self._may_ask = may_ask
        self._release = release
        self._lock = threading.Lock()
        self._at = -1
        self._uid = -1
        self._left = False
        self.found: dict[int, LeadingProcess] = {}

    def run(self) -> None:
        for place, member in enumerate(self._members):
            uid = real_user(member.facts.pid)
            with self._lock:
                if self._left:
                    return
                self._at, self._uid = place, uid
            leading = look_at(member) if self._may_ask(uid) else name_of(member)
            with self._lock:
                if self._left:
                    self._release(uid)
                    return
                self.found[member.facts.pid] = leading
        with self._lock:
            self._at = len(self._members)

    def leave(self, hold: Callable[[int], None]) -> list[Member]:
        """What is still to be read, but for the process that held it up."""
        with self._lock:
            if self._at == len(self._members):
                return []
            self._left = True
            if self._at < 0:
                # There was no thread for it.
                return []
            hold(self._uid)
            return list(self._members[self._at + 1 :])
