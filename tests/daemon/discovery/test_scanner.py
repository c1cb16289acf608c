"""A scan that makes no progress is given up, unless its thread only waits for a processor."""

import os
import threading

import pytest

from nsbroker.daemon.discovery import scan, scanner
from nsbroker.daemon.discovery.scan_result import ScanResult
from nsbroker.daemon.discovery.scanner import Scanner
from nsbroker.daemon.discovery.stall_guard import Progress
from nsbroker.daemon.targets.location_cache import LocationCache


class FirstScanWaits:
    """Scans the host, but the first scan stops at this process until `go_on` is set: a real one is blocked by an attacker."""

    def __init__(self) -> None:
        self.count = 0
        self.go_on = threading.Event()
        self._scan_host = scan.scan_host

    def __call__(self, progress: Progress, known: ScanResult | None) -> ScanResult:
        self.count += 1
        if self.count == 1:
            progress.may_look(os.getpid())
            self.go_on.wait()
        return self._scan_host(progress, known)


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> FirstScanWaits:
    scans = FirstScanWaits()
    monkeypatch.setattr(scan, "scan_host", scans)
    monkeypatch.setattr(scanner, "_STALLED", 0.01)
    return scans


async def test_a_scan_that_is_blocked_is_given_up(scans: FirstScanWaits) -> None:
    try:
        await Scanner(LocationCache()).fresh()
        assert scans.count > 1
    finally:
        scans.go_on.set()


async def test_a_scan_whose_thread_gets_no_processor_is_not_given_up(
    scans: FirstScanWaits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can take all processors from a thread at will, so what the kernel shows of the thread is made up."""
    looks: list[int] = []

    def runs(tid: int) -> bool:
        looks.append(tid)
        if len(looks) == 3:
            scans.go_on.set()
        return True

    monkeypatch.setattr(scanner, "thread_runs", runs)
    found = await Scanner(LocationCache()).fresh()
    assert scans.count == 1
    assert os.getpid() in [process.facts.pid for process in found.processes]
