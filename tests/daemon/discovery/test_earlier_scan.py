"""A quick pass finds what a full one finds, for what has changed alone."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nsbroker.daemon.discovery import earlier_scan, scan
from nsbroker.daemon.discovery.scan_result import TYPES, Census
from nsbroker.daemon.discovery.stall_guard import Progress, Stalls
from nsbroker.linux import process_table
from nsbroker.model.description import HolderKind
from nsbroker.namespace import Namespace
from tests.world import Sleeper, eventually, named_network


def full() -> Census:
    return scan.take(Progress(Stalls()))


def quick(known: Census) -> Census:
    return scan.take(Progress(Stalls()), known)


@pytest.fixture(autouse=True)
def settled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(earlier_scan, "_SETTLED", -60.0)


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[object]:
    """What a function of `process_table` is called with from now on."""
    calls: list[object] = []
    function: Callable[..., object] = getattr(process_table, name)

    def count(first: object, *more: object, **named: object) -> object:
        calls.append(first)
        return function(first, *more, **named)

    monkeypatch.setattr(process_table, name, count)
    return calls


def ids(census: Census) -> set[str]:
    return set(census.places)


def test_processes_that_are_as_they_were_are_not_looked_at_again(sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch) -> None:
    known = full()
    looks = [counted(monkeypatch, name) for name in ("descriptors", "threads")]
    found = quick(known)
    # Those of other programs on this machine that came or changed meanwhile are.
    pids = {str(sleeper.pid), str(os.getpid())}
    assert not [call for calls in looks for call in calls if pids & set(str(call).split("/"))]
    assert f"net:[{sleeper.inode('net')}]" in ids(found)
    assert found.relations[f"net:[{sleeper.inode('net')}]"] == known.relations[f"net:[{sleeper.inode('net')}]"]
    by_pid = [member for member in found.members if member.facts.pid == sleeper.pid]
    assert by_pid == [member for member in known.members if member.facts.pid == sleeper.pid]


def test_what_processes_hold_is_found_as_before(sleeper: Sleeper) -> None:
    with Namespace.create("uts") as space:
        link = str(space)
        known = full()
        found = quick(known)
        for census in (known, found):
            holders = [sighting.holder for sighting in census.sightings if sighting.link == link]
            assert [(holder.kind, holder.pid) for holder in holders] == [(HolderKind.DESCRIPTOR, os.getpid())]
    owner = known.relations[f"net:[{sleeper.inode('net')}]"].owner
    assert owner in found.relations or owner is None


def test_what_begins_and_what_ends_is_seen() -> None:
    known = full()
    with Sleeper() as process:
        link = f"net:[{process.inode('net')}]"
        assert link not in ids(known)
        known = quick(known)
        assert link in ids(known)
        assert link in known.relations
    found = quick(known)
    assert link not in ids(found)
    assert process.pid not in [member.facts.pid for member in found.members]


def test_a_number_that_was_given_again_is_another_namespace() -> None:
    with Sleeper() as process:
        link = f"net:[{process.inode('net')}]"
        known = full()
    with Sleeper() as process:
        # Whether the kernel gives the number again or not: what was known of it is not taken for what is there now.
        known.relations[f"net:[{process.inode('net')}]"] = known.relations[link]._replace(id=4711, owner="user:[1]")
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
        links = {member.facts.pid: member.links for member in quick(known).members}[process.pid]
        assert links[TYPES.index("uts")] == os.readlink(f"/proc/{process.pid}/ns/uts")
        assert links not in [member.links for member in known.members]
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
        links = {member.facts.pid: member.links for member in found.members}[process.pid]
        assert links[TYPES.index("uts")] == os.readlink(f"/proc/{process.pid}/ns/uts")
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
        link = f"net:[{path.stat().st_ino}]"
        known = quick(known)
        assert link in ids(known)
    assert link not in ids(quick(known))


@pytest.mark.root
def test_what_is_bound_in_another_mount_namespace_stays_and_goes_with_who_sees_it(tmp_path: Path) -> None:
    script = 'mount -t tmpfs tmpfs "$1"; touch "$1/ns"; unshare --net="$1/ns" readlink /proc/self/ns/net; read wait'
    command = ["unshare", "--mount", "sh", "-ec", script, "sh", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        link = child.stdout.readline().strip()
        known = full()
        for _ in range(2):
            known = quick(known)
            assert link in ids(known)
    assert link not in ids(quick(known))


def test_full_passes_and_quick_ones_tell_the_same_of_this_host(sleeper: Sleeper) -> None:
    del sleeper
    known = full()
    found = quick(known)
    again = full()
    # What others on this machine began or ended meanwhile is not the same in the two full ones.
    steady = {link for link in ids(known) & ids(again) if known.relations.get(link) == again.relations.get(link)}
    assert steady <= ids(found)
    for link in steady:
        assert found.relations.get(link) == again.relations.get(link), link
