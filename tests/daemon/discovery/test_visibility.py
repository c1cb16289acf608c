"""A user sees exactly the namespaces that the rules allow the user to open."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nsbroker.client.blocking import connect
from nsbroker.errors import NoSuchTarget, PermissionDenied
from nsbroker.model.description import NamespaceDescription
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace
from tests.world import ALICE, BOB, Daemon, Sleeper, as_user, eventually, named_network

Row = tuple[str, int, int, int | None, tuple[str, ...]]


def rows(descriptions: list[NamespaceDescription]) -> list[Row]:
    return [
        (
            str(one.type),
            one.inode,
            one.processes,
            None if one.process is None else one.process.pid,
            tuple(sorted({f"{reference.kind} {reference.path or reference.number}" for reference in one.references or ()})),
        )
        for one in descriptions
    ]


def seen(daemon: Daemon, *types: str, **options: str) -> Callable[[], list[Row]]:
    def ask() -> list[Row]:
        with connect(daemon.address) as broker:
            return rows(broker.list(types or None, **options))

    return ask


def shared(pid: int, *ns_types: str) -> set[tuple[str, int]]:
    return {(ns_type, os.stat(f"/proc/{pid}/ns/{ns_type}").st_ino) for ns_type in ns_types or NamespaceType}


@pytest.mark.root
def test_a_user_sees_the_namespaces_of_their_own_processes_and_counts_no_others(daemon: Daemon) -> None:
    with Sleeper(uid=ALICE) as mine, Sleeper(uid=BOB) as other:
        found = as_user(ALICE, seen(daemon))
        by_id = {row[:2]: row for row in found}
        # The process that asks is the user's, too.  Other tests on this machine may have started more processes of the user.
        expected = shared(mine.pid) | shared(os.getpid())
        assert expected <= by_id.keys()
        for row in (by_id[key] for key in by_id.keys() - expected):
            # It may have ended by now.
            with contextlib.suppress(FileNotFoundError):
                assert row[3] is None or os.stat(f"/proc/{row[3]}").st_uid == ALICE
        for ns_type in ("net", "uts", "ipc"):
            assert by_id[ns_type, mine.inode(ns_type)][2:] == (1, mine.pid, ())
            assert (ns_type, other.inode(ns_type)) not in by_id
        assert by_id["mnt", mine.inode("mnt")][2] >= 2
        with daemon.connect() as broker:
            everybody = {(str(one.type), one.inode): one.processes for one in broker.list()}
        assert everybody["mnt", mine.inode("mnt")] > by_id["mnt", mine.inode("mnt")][2]


@pytest.mark.root
def test_names_paths_threads_and_ids_are_seen_if_a_rule_names_them(daemon: Daemon) -> None:
    with named_network("red"), named_network("green"), Sleeper() as process, Namespace.create("net") as loose:
        red = Path("/run/netns/red").stat().st_ino
        (daemon.config / "nsbroker.toml").write_text("")
        daemon.allow("red", who=[f"user:{ALICE}"], targets=["name:r*"], namespaces=["net"])
        assert as_user(ALICE, seen(daemon)) == [("net", red, 0, None, ("mount /run/netns/red",))]
        assert as_user(BOB, seen(daemon)) == []
        daemon.allow("red", who=[f"user:{ALICE}"], targets=["path:/run/netns/green"], namespaces=["*"])
        assert [row[4] for row in as_user(ALICE, seen(daemon))] == [("mount /run/netns/green",)]
        daemon.allow("red", who=[f"user:{ALICE}"], targets=[f"pid:{process.pid}"], namespaces=["uts"])
        assert as_user(ALICE, seen(daemon)) == [("uts", process.inode("uts"), 1, process.pid, ())]
        daemon.allow("red", who=[f"user:{ALICE}"], targets=[f"net:[{loose.inode}]"], namespaces=["net"])
        assert as_user(ALICE, seen(daemon)) == [("net", loose.inode, 0, None, (f"descriptor {loose.fileno()}",))]
        daemon.allow("red", who=[f"user:{ALICE}"], targets=["*"], namespaces=["uts"])
        inodes = {row[1] for row in as_user(ALICE, seen(daemon))}
        assert {process.inode("uts"), os.stat("/proc/self/ns/uts").st_ino} <= inodes
        with daemon.connect() as broker, pytest.raises(PermissionDenied):
            broker.open("self", "net")


@pytest.mark.root
def test_what_is_held_for_a_user_is_seen_by_that_user(daemon: Daemon) -> None:
    daemon.allow("hold", who=[f"user:{ALICE}"], targets=["name:lab"], create=["net"], hold=["net"], namespaces=["net"])

    def hold() -> tuple[int, list[Row]]:
        with connect(daemon.address) as broker:
            with broker.create(["net"], name="lab").namespaces[NamespaceType.NET] as ns:
                inode = ns.inode
            found = [row for row in rows(broker.list(["net"])) if row[1] == inode]
            broker.release("lab")
            return inode, found

    inode, found = as_user(ALICE, hold)
    assert found == [("net", inode, 0, None, ("descriptor name:lab",))]


@pytest.mark.root
def test_only_what_may_be_opened_of_a_target_is_listed(daemon: Daemon, sleeper: Sleeper) -> None:
    daemon.allow("some", who=[f"user:{ALICE}"], targets=[f"pid:{sleeper.pid}"], namespaces=["net", "uts"])
    found = as_user(ALICE, seen(daemon, target=f"pid:{sleeper.pid}"))
    assert {row[:2] for row in found} == shared(sleeper.pid, "net", "uts")
    assert {row[:2] for row in as_user(ALICE, seen(daemon, "uts", "ipc", target=f"pid:{sleeper.pid}"))} == shared(
        sleeper.pid, "uts"
    )
    with daemon.connect() as broker:
        assert {row[:2] for row in rows(broker.list(target=f"pid:{sleeper.pid}"))} == shared(sleeper.pid)
        with pytest.raises(NoSuchTarget):
            broker.list(target=f"pid:{2**22 - 3}")

    def refused() -> bool:
        with connect(daemon.address) as broker, pytest.raises(PermissionDenied):
            broker.list(target=f"pid:{sleeper.pid}")
        return True

    assert as_user(BOB, refused)


@pytest.mark.root
def test_nothing_about_others_shows_in_what_a_user_is_sent(daemon: Daemon) -> None:
    """The reply is the same to the byte, whether or not others have a hundred namespaces more."""
    with Sleeper(uid=ALICE):

        def without_self() -> list[object]:
            with connect(daemon.address) as broker:
                # The pid of the process that asks is another each time, so pids are left out.
                return [(one.type, one.inode, one.processes, one.references, one.containers, one.units) for one in broker.list()]

        def shows_nothing() -> bool:
            before = as_user(ALICE, without_self)
            namespaces = [Namespace.create(ns_type) for ns_type in ("net", "uts", "ipc", "mnt") for _ in range(25)]
            try:
                with Sleeper(uid=BOB), Sleeper():
                    return as_user(ALICE, without_self) == before
            finally:
                for ns in namespaces:
                    ns.close()

        # Other tests that run at the same time start and end processes of the same user.
        eventually(shows_nothing, "the reply is the same")


@pytest.mark.root
def test_how_long_a_user_waits_reveals_little_about_others(daemon: Daemon) -> None:
    """Replies come at multiples of 250 ms after the call."""

    def waited() -> list[float]:
        with connect(daemon.address) as broker:
            times = []
            for _ in range(6):
                start = time.monotonic()
                broker.list(["net"])
                times.append(time.monotonic() - start)
            return times

    few = as_user(ALICE, waited)
    namespaces = [Namespace.create("uts") for _ in range(300)]
    many = as_user(ALICE, waited)
    for ns in namespaces:
        ns.close()
    for waits in (few, many):
        assert min(waits) > 0.24
        # On a busy machine, scanning can take longer than to the first multiple, and a reply can come late.
        assert min((wait + 0.01) % 0.25 for wait in waits) < 0.11, waits


@pytest.mark.root
def test_a_rule_for_a_unit_does_no_harm_where_there_is_no_systemd(daemon: Daemon, sleeper: Sleeper) -> None:
    (daemon.config / "nsbroker.toml").write_text("")
    daemon.allow("some", who=[f"user:{ALICE}"], targets=["unit:web.service", f"pid:{sleeper.pid}"], namespaces=["net"])
    assert [row[:2] for row in as_user(ALICE, seen(daemon))] == [("net", sleeper.inode("net"))]
