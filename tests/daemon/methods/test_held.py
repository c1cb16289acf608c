"""Held namespaces without a service manager.  The tests with one are in tests/systemd/test_held.py."""

import subprocess
from pathlib import Path

import pytest

from nsbroker.errors import (
    InvalidParameter,
    NameTaken,
    NoSuchTarget,
    NotANamespace,
    NsbrokerError,
    PermissionDenied,
    QuotaExceeded,
)
from nsbroker.model.identity import NamespaceType
from tests.world import ALICE, BOB, Daemon, Sleeper, as_user, eventually

pytestmark = pytest.mark.root


def test_a_namespace_is_created_held_opened_and_released(daemon: Daemon) -> None:
    before = daemon.snapshot()
    with daemon.connect() as broker:
        made = broker.create(["net", "uts"], name="lab")
        inodes = {ns_type: ns.inode for ns_type, ns in made.namespaces.items()}
        assert not made.durable, "nobody keeps it when the broker ends, and the reply says so"
        for ns in made.namespaces.values():
            ns.close()
        opened = broker.open_all("name:lab")
        assert {ns_type: ns.inode for ns_type, ns in opened.items()} == inodes
        for ns in opened.values():
            ns.close()
        assert [(one.name, one.uid, one.type, one.inode) for one in broker.held()] == [
            ("lab", 0, ns_type, inodes[ns_type]) for ns_type in (NamespaceType.NET, NamespaceType.UTS)
        ]
        assert (broker.status().held, broker.status().held_durable) == (2, False)
        with pytest.raises(NotANamespace, match="only net, uts is held under that name, no ipc"):
            broker.open("name:lab", "ipc")
        with pytest.raises(NameTaken):
            broker.create(["net"], name="lab")
        broker.release("lab")
        for gone in (lambda: broker.open("name:lab", "net"), lambda: broker.release("lab")):
            with pytest.raises(NoSuchTarget):
                gone()
    daemon.settles_at(before)


def test_a_held_namespace_outlives_its_process(daemon: Daemon) -> None:
    with Sleeper() as sleeper, daemon.connect() as broker:
        inode = sleeper.inode("net")
        assert broker.hold(f"pid:{sleeper.pid}", "kept", ["net"]) is False
    with daemon.connect() as broker:
        with broker.open("name:kept", "net") as ns:
            assert ns.inode == inode
        broker.release("kept")


def test_a_namespace_without_a_name_exists_only_as_long_as_the_caller_has_it_open(daemon: Daemon) -> None:
    daemon.allow("lab", who=[f"user:{ALICE}"], targets=["own"], create=["net"])
    before = daemon.snapshot()

    def make() -> list[str]:
        with daemon.connect() as broker:
            made = broker.create(["net"]).namespaces
            try:
                return [str(ns) for ns in made.values()] + [one.name for one in broker.held()]
            finally:
                for ns in made.values():
                    ns.close()

    assert len(as_user(ALICE, make)) == 1
    assert daemon.records()[0]["method"] == "Create"
    daemon.settles_at(before)


def test_a_held_name_needs_a_rule_and_belongs_to_the_user_who_asked_for_it(daemon: Daemon) -> None:
    daemon.allow("lab", who=[f"user:{ALICE}"], targets=["name:lab-*"], create=["net"], hold=["net"])
    daemon.allow("see", who=[f"user:{BOB}"], targets=["name:lab-1", "name:lab-9"], namespaces=["net"])
    daemon.allow("pattern", who=["user:4999"], targets=["name:lab-*"], namespaces=["net"])

    def alice() -> list[str]:
        outcome = []
        with daemon.connect() as broker:
            for name, types in (("lab-1", ["net"]), ("lab-2", ["uts"]), ("other", ["net"]), ("lab-1", ["net"])):
                try:
                    for ns in broker.create(types, name=name).namespaces.values():
                        ns.close()
                    outcome.append("made")
                except NsbrokerError as error:
                    outcome.append(type(error).__name__)
        return outcome

    assert as_user(ALICE, alice) == ["made", "PermissionDenied", "PermissionDenied", "NameTaken"]

    def others() -> list[object]:
        outcome: list[object] = []
        with daemon.connect() as broker:
            outcome.append([one.name for one in broker.held()])
            for name in ("lab-1", "lab-9", "nothing"):
                try:
                    broker.release(name)
                except NsbrokerError as error:
                    outcome.append(type(error).__name__)
        return outcome

    assert as_user(BOB, others) == [["lab-1"], "PermissionDenied", "NoSuchTarget", "PermissionDenied"]
    assert as_user(4998, others) == [[], "PermissionDenied", "PermissionDenied", "PermissionDenied"]
    # A pattern only means names of `ip netns`: another user chooses the names of what is held for that user.
    assert as_user(4999, others) == [[], "PermissionDenied", "NoSuchTarget", "PermissionDenied"]

    def mine() -> None:
        with daemon.connect() as broker:
            broker.open("name:lab-1", "net").close()
            broker.release("lab-1")

    as_user(ALICE, mine)


def test_the_user_who_asked_to_hold_it_opens_it_without_another_rule(daemon: Daemon) -> None:
    daemon.allow("lab", who=[f"user:{ALICE}"], targets=["name:lab"], create=["net"], hold=["net"])

    def make() -> None:
        with daemon.connect() as broker:
            for ns in broker.create(["net"], name="lab").namespaces.values():
                ns.close()

    as_user(ALICE, make)
    (daemon.config / "nsbroker.d/lab.toml").unlink()
    daemon.reload()

    def look() -> str:
        with daemon.connect() as broker:
            try:
                broker.open("name:lab", "net").close()
            except PermissionDenied:
                return "denied"
            return "opened"

    assert (as_user(ALICE, look), as_user(BOB, look)) == ("opened", "denied")


def test_holding_needs_the_right_to_open_and_the_right_to_the_name(daemon: Daemon, sleeper: Sleeper) -> None:
    daemon.allow("open", who=[f"user:{ALICE}"], targets=["name:other"], namespaces=["*"])
    daemon.allow("lab", who=[f"user:{ALICE}"], targets=["name:lab"], hold=["*"])

    def hold() -> list[str]:
        outcome = []
        with daemon.connect() as broker:
            for target, name in ((f"pid:{sleeper.pid}", "lab"), ("self", "other"), ("self", "lab")):
                try:
                    broker.hold(target, name, ["net"])
                    outcome.append("held")
                except PermissionDenied:
                    outcome.append("denied")
        return outcome

    assert as_user(ALICE, hold) == ["denied", "denied", "held"]


def holds_only(daemon: Daemon, count: int) -> bool:
    """Return whether the daemon has as many namespaces open as it holds, and no thread but the first one."""
    now = daemon.snapshot()
    return len(now.threads) == 1 and sum("net:[" in path for _, path in now.fds) == count


def test_held_namespaces_of_one_user_are_limited(tmp_path: Path) -> None:
    with Daemon(tmp_path, limits="held-per-user = 3") as daemon, daemon.connect() as broker:
        for name in ("a", "b"):
            for ns in broker.create(["net"], name=name).namespaces.values():
                ns.close()
        eventually(lambda: holds_only(daemon, 2), "the threads have ended, and the copies for the client are closed")
        before = daemon.snapshot()
        with pytest.raises(QuotaExceeded, match="held-per-user"):
            broker.create(["net", "uts"], name="c")
        with pytest.raises(QuotaExceeded, match="held-per-user"):
            broker.hold("self", "c", ["net", "uts"])
        daemon.settles_at(before)
        broker.release("a")
        for ns in broker.create(["net", "uts"], name="c").namespaces.values():
            ns.close()


def test_a_name_of_ip_netns_comes_before_a_held_one(daemon: Daemon, blue: Path) -> None:
    with daemon.connect() as broker:
        broker.hold("name:blue", "blue", ["net"])
        with broker.open("name:blue", "net") as ns:
            assert ns.inode == blue.stat().st_ino
        subprocess.run(["ip", "netns", "del", "blue"], check=True)
        with broker.open("name:blue", "net") as ns:
            kept = ns.inode
        subprocess.run(["ip", "netns", "add", "blue"], check=True)
        with broker.open("name:blue", "net") as ns:
            assert ns.inode == blue.stat().st_ino != kept
        broker.release("blue")
        with pytest.raises(NameTaken):
            broker.hold("self", "blue", ["net"])
        with pytest.raises(NameTaken):
            broker.create(["net"], name="blue")
        broker.hold("name:blue", "kept", ["net"])
        with broker.open("name:kept", "net") as ns:
            assert ns.inode == blue.stat().st_ino


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a:b", "x" * 201, "a\nb"])
def test_an_invalid_held_name_is_refused(daemon: Daemon, name: str) -> None:
    with daemon.connect() as broker:
        for ask in (
            lambda: broker.create(["net"], name=name),
            lambda: broker.hold("self", name, ["net"]),
            lambda: broker.release(name),
        ):
            with pytest.raises(InvalidParameter, match="name"):
                ask()


def test_types_that_a_thread_cannot_create_are_refused(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        for types in (["user"], ["pid"], [], ["net", "net"]):
            with pytest.raises(InvalidParameter, match="types"):
                broker.create(types)
