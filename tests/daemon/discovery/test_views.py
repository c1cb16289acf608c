"""Whose processes stand for containers and units in a view.  `test_visibility.py` tests what else a user sees."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from nsbroker.daemon.context import Context
from nsbroker.daemon.discovery import view
from nsbroker.daemon.discovery.scan import scan_host
from nsbroker.daemon.discovery.scan_result import ScanResult
from nsbroker.daemon.discovery.scanner import Scanner
from nsbroker.daemon.discovery.stall_guard import Progress, StallGuard
from nsbroker.daemon.discovery.views import Views
from nsbroker.daemon.engines.container import Container, State
from nsbroker.daemon.engines.query import QueryResult
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.targets import units
from nsbroker.linux import process_table
from nsbroker.linux.features import features
from nsbroker.linux.process import Process
from nsbroker.model.identity import NamespaceType
from tests.daemon.policy.test_rules import policy, rule
from tests.world import ALICE, Sleeper

pidfs = pytest.mark.skipif(not features().pidfd_thread, reason="before Linux 6.9 all pidfds have the same inode")


def container(pid: int) -> Container:
    return Container(engine="docker", id="c" * 64, names=("web",), state=State.RUNNING, pid=pid)


class MadeUp:
    """An engine or a systemd that names one process, which `pin` proves; a scanner whose scans begin with `meanwhile`."""

    deadline = 5.0

    def __init__(self, containers: list[Container], pin: Callable[[int], Process], meanwhile: Callable[[], None]) -> None:
        self._containers = containers
        self._pin = pin
        self._meanwhile = meanwhile

    async def list(self, _: object) -> QueryResult:
        return QueryResult(self._containers, [])

    async def pin(self, container: Container, _: int) -> Process:
        return self._pin(container.pid)

    async def fresh(self, *, patient: bool) -> ScanResult:
        assert patient
        self._meanwhile()
        return scan_host(Progress(StallGuard()), None)


async def run(*call: Any) -> Any:
    return call[3]()


async def networks_seen(tmp_path: Path, made_up: MadeUp, targets: str) -> list[str]:
    """Return the ids of the networks that ALICE, who may open `targets`, sees."""
    context = SimpleNamespace(engines=made_up, threads=SimpleNamespace(run=run), held_store=[])
    views = Views(cast(Context, context), cast(Scanner, made_up))
    someone = SimpleNamespace(
        uid=ALICE,
        gid=ALICE,
        user=ALICE,
        pid=0,
        anonymous=False,
        groups=frozenset(),
        unit=lambda: None,
        workload=lambda: None,
        owns=lambda _: False,
        number_of=lambda pid: pid,
    )
    grants = policy(tmp_path, rule(targets=[targets])).grants(cast(Peer, someone))
    view = await views.view(cast(Peer, someone), grants, [NamespaceType.NET])
    return view.ids()


def pin_as(pid: int) -> Callable[[int], Process]:
    """Pin the process `pid` in the place of the one that has the number.

    So it is when the pinned process has ended since, and its number was given to another process.  A test cannot choose the number
    of a new process of the host.
    """
    return lambda number: Process(os.pidfd_open(pid), number)


async def test_the_process_that_was_proved_is_seen(tmp_path: Path) -> None:
    with Sleeper() as sleeper:
        made_up = MadeUp([container(sleeper.pid)], Process.open, lambda: None)
        assert await networks_seen(tmp_path, made_up, "docker:web") == [f"net:[{sleeper.inode('net')}]"]


@pidfs
async def test_a_stranger_with_the_number_of_a_container_is_not_seen(tmp_path: Path) -> None:
    with Sleeper() as proved, Sleeper() as stranger:
        made_up = MadeUp([container(stranger.pid)], pin_as(proved.pid), lambda: None)
        assert await networks_seen(tmp_path, made_up, "docker:web") == []


@pidfs
async def test_a_stranger_with_the_number_of_a_unit_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Sleeper() as proved, Sleeper() as stranger:

        async def running(*_: object) -> list[str]:
            return ["web.service"]

        async def find(*_: object) -> Process:
            return pin(stranger.pid)

        monkeypatch.setattr(units, "running", running)
        monkeypatch.setattr(units, "find", find)
        made_up = MadeUp([], Process.open, lambda: None)
        pin = pin_as(proved.pid)
        assert await networks_seen(tmp_path, made_up, "unit:web.service") == []
        pin = Process.open
        assert await networks_seen(tmp_path, made_up, "unit:web.service") == [f"net:[{stranger.inode('net')}]"]


async def test_a_container_that_ends_before_the_scan_is_not_seen(tmp_path: Path) -> None:
    with Sleeper() as sleeper:
        made_up = MadeUp([container(sleeper.pid)], Process.open, sleeper.end)
        assert await networks_seen(tmp_path, made_up, "docker:web") == []


async def test_among_many_containers_other_tasks_run(tmp_path: Path) -> None:
    """An engine that tells no start time needs no thread for any of its containers."""
    passes = 0

    async def count() -> None:
        nonlocal passes
        while True:
            await trio.lowlevel.checkpoint()
            passes += 1

    counted = []
    with Sleeper() as sleeper:
        made_up = MadeUp([container(sleeper.pid)] * 400, Process.open, lambda: counted.append(passes))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            await networks_seen(tmp_path, made_up, "docker:web")
            nursery.cancel_scope.cancel()
    assert counted[0] >= 40


def test_a_unit_whose_name_is_no_text_is_shown_with_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd gives no unit such a name, but a reply with it could not be sent."""
    monkeypatch.setattr(process_table, "control_groups", lambda _: b"0::/system.slice/\xff.service\n")
    assert view._Units().of(1) == "\\xff.service"
