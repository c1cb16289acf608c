"""A quick scan finds what a full scan finds, but looks only at what has changed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nsbroker.daemon.discovery import earlier_scan, scan
from nsbroker.daemon.discovery.scan_result import TYPES, ScanResult
from nsbroker.daemon.discovery.stall_guard import Progress, StallGuard
from nsbroker.linux import process_table
from nsbroker.model.description import ReferenceKind
from nsbroker.namespace import Namespace
from tests.world import Sleeper, eventually, named_network


def full() -> ScanResult:
    return scan.scan_host(Progress(StallGuard()))


def quick(known: ScanResult) -> ScanResult:
    return scan.scan_host(Progress(StallGuard()), known)


@pytest.fixture(autouse=True)
def settled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(earlier_scan, "_SETTLED", -60.0)


def record_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[object]:
    """The first arguments of all calls of a function of `process_table` from now on."""
    calls: list[object] = []
    function: Callable[..., object] = getattr(process_table, name)

    def count(first: object, *more: object, **named: object) -> object:
        calls.append(first)
        return function(first, *more, **named)

    monkeypatch.setattr(process_table, name, count)
    return calls


def ids(scan: ScanResult) -> set[str]:
    return set(scan.places)


def test_processes_that_are_as_they_were_are_not_looked_at_again(sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch) -> None:
    known = full()
    looks = [record_calls(monkeypatch, name) for name in ("descriptors", "threads")]
    found = quick(known)
    # Processes of other programs on this machine that came or changed meanwhile are looked at.
    pids = {str(sleeper.pid), str(os.getpid())}
    assert not [call for calls in looks for call in calls if pids & set(str(call).split("/"))]
    assert f"net:[{sleeper.inode('net')}]" in ids(found)
    assert found.relations[f"net:[{sleeper.inode('net')}]"] == known.relations[f"net:[{sleeper.inode('net')}]"]
    by_pid = [process for process in found.processes if process.facts.pid == sleeper.pid]
    assert by_pid == [process for process in known.processes if process.facts.pid == sleeper.pid]


def test_what_processes_keep_open_is_found_as_before(sleeper: Sleeper) -> None:
    with Namespace.create("uts") as ns:
        ns_id = str(ns)
        known = full()
        found = quick(known)
        for scan in (known, found):
            references = [reference.reference for reference in scan.references if reference.ns_id == ns_id]
            assert [(reference.kind, reference.pid) for reference in references] == [(ReferenceKind.DESCRIPTOR, os.getpid())]
    owner = known.relations[f"net:[{sleeper.inode('net')}]"].owner
    assert owner in found.relations or owner is None


def test_what_begins_and_what_ends_is_noticed() -> None:
    known = full()
    with Sleeper() as process:
        ns_id = f"net:[{process.inode('net')}]"
        assert ns_id not in ids(known)
        known = quick(known)
        assert ns_id in ids(known)
        assert ns_id in known.relations
    assert process.pid not in [process.facts.pid for process in quick(known).processes]
    check_gone(ns_id, known)


def check_gone(ns_id: str, known: ScanResult) -> None:
    """Check that a quick scan does not find a namespace that has ended.

    The kernel soon gives its inode to another one, which may belong to other tests that run at the same time.
    """
    eventually(lambda: ns_id not in ids(quick(known)), f"{ns_id} is not found")


def test_an_inode_that_is_used_again_is_another_namespace() -> None:
    with Sleeper() as process:
        ns_id = f"net:[{process.inode('net')}]"
        known = full()
    with Sleeper() as process:
        # Whether the kernel uses the inode again or not: what was known of it must not be used for what is there now.
        known.relations[f"net:[{process.inode('net')}]"] = known.relations[ns_id]._replace(id=4711, owner="user:[1]")
        found = quick(known)
        assert found.relations[f"net:[{process.inode('net')}]"] == full().relations[f"net:[{process.inode('net')}]"]


def test_a_settled_process_that_moves_is_seen_where_it_is() -> None:
    code = "import ctypes, sys; input(); ctypes.CDLL(None).unshare(0x04000000); print(flush=True); input()"
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        eventually(lambda: Path(f"/proc/{process.pid}/comm").read_text() != "unshare\n", "it runs")
        known = full()
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        ns_ids = {process.facts.pid: process.ns_ids for process in quick(known).processes}[process.pid]
        assert ns_ids[TYPES.index("uts")] == os.readlink(f"/proc/{process.pid}/ns/uts")
        assert ns_ids not in [process.ns_ids for process in known.processes]
        process.kill()


def test_a_young_process_is_looked_at_until_it_has_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(earlier_scan, "_SETTLED", 600.0)
    code = "import ctypes, sys; input(); ctypes.CDLL(None).unshare(0x04000000); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        known = full()
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        found = quick(known)
        ns_ids = {process.facts.pid: process.ns_ids for process in found.processes}[process.pid]
        assert ns_ids[TYPES.index("uts")] == os.readlink(f"/proc/{process.pid}/ns/uts")
        process.kill()


def test_a_process_that_runs_something_else_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    del monkeypatch
    with subprocess.Popen(
        ["sh", "-c", "read wait; exec unshare --user --map-root-user --uts sleep 100"], stdin=subprocess.PIPE
    ) as process:
        eventually(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sh\n", "the shell runs")
        known = full()
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.flush()
        eventually(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", "it sleeps")
        assert os.readlink(f"/proc/{process.pid}/ns/uts") in ids(quick(known))
        process.kill()


@pytest.mark.root
def test_names_come_and_go() -> None:
    known = full()
    with named_network("red") as path:
        ns_id = f"net:[{path.stat().st_ino}]"
        known = quick(known)
        assert ns_id in ids(known)
    check_gone(ns_id, known)


@pytest.mark.root
def test_what_is_bound_in_another_mount_namespace_stays_and_goes_with_the_process_that_sees_it(tmp_path: Path) -> None:
    script = 'mount -t tmpfs tmpfs "$1"; touch "$1/ns"; unshare --net="$1/ns" readlink /proc/self/ns/net; read wait'
    command = ["unshare", "--mount", "sh", "-ec", script, "sh", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        ns_id = child.stdout.readline().strip()
        known = full()
        for _ in range(2):
            known = quick(known)
            assert ns_id in ids(known)
    check_gone(ns_id, known)


def test_full_and_quick_scans_find_the_same_on_this_host(sleeper: Sleeper) -> None:
    del sleeper

    def agree() -> bool:
        known = full()
        found = quick(known)
        again = full()
        # What others on this machine began or ended meanwhile differs between the two full scans, but for what one scan missed:
        # a namespace that goes from one short-lived process to the next.
        steady = {ns_id for ns_id in ids(known) & ids(again) if known.relations.get(ns_id) == again.relations.get(ns_id)}
        return steady <= ids(found) and all(found.relations.get(ns_id) == again.relations.get(ns_id) for ns_id in steady)

    eventually(agree, "full and quick scans find the same")
