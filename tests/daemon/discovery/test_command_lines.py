"""Whom the reading of command lines blames.  `test_scan.py` has real processes whose command lines cannot be read."""

import threading
from collections.abc import Iterator

import pytest

from nsbroker.daemon.discovery import command_lines
from nsbroker.daemon.discovery.command_lines import CommandLines
from nsbroker.daemon.discovery.scan_result import ScannedProcess
from nsbroker.linux.process_table import Facts
from nsbroker.model.description import LeadingProcess
from tests.world import ALICE

SUBORDINATE = 200_000


def scanned(pid: int) -> ScannedProcess:
    return ScannedProcess(Facts(pid, 1, 1, pid, f"name of {pid}", is_kernel_thread=False), ())


async def test_subordinate_uids_block_one_thread_for_their_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up processes, each with another uid: real ones would need a file system that does not answer."""
    monkeypatch.setattr(command_lines, "_DEADLINE", 0.05)
    monkeypatch.setattr(command_lines, "real_user", lambda pid: SUBORDINATE + pid)
    monkeypatch.setattr(command_lines, "user_of", lambda uid: ALICE if uid >= SUBORDINATE else uid)
    free = threading.Event()
    blocked = []

    def block(process: ScannedProcess) -> LeadingProcess:
        blocked.append(process.facts.pid)
        free.wait()
        return command_lines.name_of(process)

    monkeypatch.setattr(command_lines, "read_process", block)
    try:
        found = await CommandLines().read([scanned(pid) for pid in range(1, 5)])
    finally:
        free.set()
    assert blocked == [1]
    assert {pid: process.command for pid, process in found.items()} == {pid: f"name of {pid}" for pid in range(2, 5)}


class Expiring(list[ScannedProcess]):
    """Processes to read.  The deadline expires after `read` of them, before the next one is begun."""

    read = 0
    reading: command_lines._Reading
    rest: list[ScannedProcess]
    blocked: list[int]

    def __iter__(self) -> Iterator[ScannedProcess]:
        for number in range(len(self)):
            self._expire(number)
            yield self[number]
        self._expire(len(self))

    def _expire(self, number: int) -> None:
        if number == self.read:
            self.rest = self.reading.abandon(self.blocked.append)


@pytest.mark.parametrize("read", [1, 2, 3])
def test_when_the_deadline_expires_between_two_processes_nobody_is_blamed(monkeypatch: pytest.MonkeyPatch, read: int) -> None:
    """The deadline expires in a step of the reading thread: no test could meet the moment between two processes."""
    monkeypatch.setattr(command_lines, "read_process", command_lines.name_of)
    processes = Expiring(scanned(pid) for pid in (1, 2, 3))
    processes.read, processes.blocked = read, []
    unblocked: list[int] = []
    processes.reading = command_lines._Reading(processes, lambda _: True, unblocked.append)
    processes.reading.run()
    assert processes.blocked == unblocked == []
    assert list(processes.reading.found) == [1, 2, 3][:read]
    assert [process.facts.pid for process in processes.rest] == [1, 2, 3][read:]
