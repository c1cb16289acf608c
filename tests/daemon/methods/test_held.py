"""Held namespaces, without a service manager.  With one: tests/systemd/test_held.py."""

import os
import subprocess
from pathlib import Path

import pytest

from nsbroker.daemon.systemd.service_manager import FdStore, PassedFd
from nsbroker.daemon.targets.held_store import Holder
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
from nsbroker.namespace import Namespace
from tests.world import ALICE, BOB, Daemon, Sleeper, as_user, eventually, run_command

pytestmark = pytest.mark.root


def test_a_namespace_is_made_held_opened_and_let_go(daemon: Daemon) -> None:
    before = daemon.snapshot()
    with daemon.connect() as broker:
        made = broker.create(["net", "uts"], name="lab")
        inodes = {kind: space.inode for kind, space in made.namespaces.items()}
        assert not made.durable, "nobody keeps it when the broker ends, and the answer says so"
        for space in made.namespaces.values():
            space.close()
        spaces = broker.open_all("name:lab")
        assert {kind: space.inode for kind, space in spaces.items()} == inodes
        for space in spaces.values():
            space.close()
        assert [(one.name, one.uid, one.type, one.inode) for one in broker.held()] == [
            ("lab", 0, kind, inodes[kind]) for kind in (NamespaceType.NET, NamespaceType.UTS)
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


def test_what_is_held_outlives_the_process_it_was_of(daemon: Daemon) -> None:
    with Sleeper() as sleeper, daemon.connect() as broker:
        inode = sleeper.inode("net")
        assert broker.hold(f"pid:{sleeper.pid}", "kept", ["net"]) is False
    with daemon.connect() as broker:
        with broker.open("name:kept", "net") as space:
            assert space.inode == inode
        broker.release("kept")


def test_one_without_a_name_is_the_callers_as_long_as_it_has_it(daemon: Daemon) -> None:
    daemon.allow("lab", who=[f"user:{ALICE}"], targets=["own"], create=["net"])
    before = daemon.snapshot()

    def make() -> list[str]:
        with daemon.connect() as broker:
            made = broker.create(["net"]).namespaces
            try:
                return [str(space) for space in made.values()] + [one.name for one in broker.held()]
            finally:
                for space in made.values():
                    space.close()

    assert len(as_user(ALICE, make)) == 1
    assert daemon.records()[0]["verb"] == "Create"
    daemon.settles_at(before)


def test_a_name_takes_a_rule_and_belongs_to_who_holds_it(daemon: Daemon) -> None:
    daemon.allow("lab", who=[f"user:{ALICE}"], targets=["name:lab-*"], create=["net"], hold=["net"])
    daemon.allow("see", who=[f"user:{BOB}"], targets=["name:lab-1", "name:lab-9"], namespaces=["net"])
    daemon.allow("pattern", who=["user:4999"], targets=["name:lab-*"], namespaces=["net"])

    def alice() -> list[str]:
        outcome = []
        with daemon.connect() as broker:
            for name, types in (("lab-1", ["net"]), ("lab-2", ["uts"]), ("other", ["net"]), ("lab-1", ["net"])):
                try:
                    for space in broker.create(types, name=name).namespaces.values():
                        space.close()
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
    # A pattern means what `ip netns` names: what another user holds is that user's choice.
    assert as_user(4999, others) == [[], "PermissionDenied", "NoSuchTarget", "PermissionDenied"]

    def mine() -> None:
        with daemon.connect() as broker:
            broker.open("name:lab-1", "net").close()
            broker.release("lab-1")

    as_user(ALICE, mine)


def test_the_holder_opens_what_is_held_without_any_other_rule(daemon: Daemon) -> None:
    daemon.allow("lab", who=[f"user:{ALICE}"], targets=["name:lab"], create=["net"], hold=["net"])

    def make() -> None:
        with daemon.connect() as broker:
            for space in broker.create(["net"], name="lab").namespaces.values():
                space.close()

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


def test_holding_takes_the_right_to_open_and_the_right_to_the_name(daemon: Daemon, sleeper: Sleeper) -> None:
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


def test_a_user_holds_so_many_and_no_more(tmp_path: Path) -> None:
    with Daemon(tmp_path, limits="held-per-user = 3") as daemon, daemon.connect() as broker:
        for name in ("a", "b"):
            for space in broker.create(["net"], name=name).namespaces.values():
                space.close()
        eventually(lambda: len(daemon.snapshot().threads) == 1, "the threads that made them have ended")
        before = daemon.snapshot()
        with pytest.raises(QuotaExceeded, match="held-per-user"):
            broker.create(["net", "uts"], name="c")
        with pytest.raises(QuotaExceeded, match="held-per-user"):
            broker.hold("self", "c", ["net", "uts"])
        daemon.settles_at(before)
        broker.release("a")
        for space in broker.create(["net", "uts"], name="c").namespaces.values():
            space.close()


def test_what_ip_netns_names_comes_before_what_is_held_under_the_same_name(daemon: Daemon, blue: Path) -> None:
    with daemon.connect() as broker:
        broker.hold("name:blue", "blue", ["net"])
        with broker.open("name:blue", "net") as space:
            assert space.inode == blue.stat().st_ino
        subprocess.run(["ip", "netns", "del", "blue"], check=True)
        with broker.open("name:blue", "net") as space:
            kept = space.inode
        subprocess.run(["ip", "netns", "add", "blue"], check=True)
        with broker.open("name:blue", "net") as space:
            assert space.inode == blue.stat().st_ino != kept
        broker.release("blue")
        with pytest.raises(NameTaken):
            broker.hold("self", "blue", ["net"])
        with pytest.raises(NameTaken):
            broker.create(["net"], name="blue")
        broker.hold("name:blue", "kept", ["net"])
        with broker.open("name:kept", "net") as space:
            assert space.inode == blue.stat().st_ino


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a:b", "x" * 201, "a\nb"])
def test_what_cannot_be_a_name_is_refused(daemon: Daemon, name: str) -> None:
    with daemon.connect() as broker:
        for ask in (
            lambda: broker.create(["net"], name=name),
            lambda: broker.hold("self", name, ["net"]),
            lambda: broker.release(name),
        ):
            with pytest.raises(InvalidParameter, match="name"):
                ask()


def test_types_that_no_thread_can_make_are_refused(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        for types in (["user"], ["pid"], [], ["net", "net"]):
            with pytest.raises(InvalidParameter, match="types"):
                broker.create(types)


def test_what_the_store_gives_back_is_held_again_and_what_is_none_is_let_go() -> None:
    with Namespace.current("net") as net, Namespace.current("uts") as uts:
        copies = [os.dup(space.fileno()) for space in (net, uts, uts)]
        read, write = os.pipe()
        os.close(write)
        holder = Holder(FdStore(), 4)
        faults = holder.restore(
            [
                PassedFd("held-7-net-a-b", copies[0]),
                PassedFd("held-7-uts-a-b", copies[1]),
                PassedFd("held-8-net-wrong-type", copies[2]),
                PassedFd("held-8-net-pipe", read),
            ]
        )
        (held,) = holder
        assert (held.name, held.uid, set(held.spaces)) == ("a-b", 7, {NamespaceType.NET, NamespaceType.UTS})
        assert len(faults) == 2
        holder.close()


def test_the_commands(daemon: Daemon, sleeper: Sleeper) -> None:
    created = run_command("create", "lab", "--type", "net", "--type", "uts", address=daemon.address)
    assert created.stdout.startswith("name:lab is net:["), created.stderr
    assert "until the broker ends" in created.stdout
    held = run_command("hold", f"pid:{sleeper.pid}", "kept", address=daemon.address)
    assert f"name:kept is net:[{sleeper.inode('net')}]" in held.stdout, held.stderr
    listed = run_command("held", address=daemon.address).stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["NAME", "kept", "lab", "lab"]
    assert f'"inode": {sleeper.inode("net")}' in run_command("held", "--json", address=daemon.address).stdout
    assert run_command("release", "lab", address=daemon.address).returncode == 0
    again = run_command("release", "lab", address=daemon.address)
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "nothing is held under that name" in again.stderr
