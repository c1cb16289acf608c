"""Which targets and permissions a restriction leaves, with a real daemon."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import nsbroker
from nsbroker.client.blocking import Broker
from nsbroker.errors import NoSuchTarget, PermissionDenied
from nsbroker.linux.features import features
from nsbroker.model.target import Target
from tests.daemon.methods.restricting import denies, needs_proven_root, write_crun
from tests.world import ALICE, BOB, Daemon, Sleeper, as_user, named_network

pytestmark = pytest.mark.root


@needs_proven_root
@pytest.mark.parametrize(
    ("patterns", "fits", "misses"),
    [
        (["name:bl*"], ["name:blue", "name:black"], ["name:green"]),
        (["name:b???k"], ["name:black"], ["name:blue", "name:green"]),
        (["path:/run/netns/*"], ["path:/run/netns/blue"], ["name:blue"]),
        (["crun:web-*"], ["crun:web-1", "container:web-1"], ["crun:db", "container:db", "name:blue"]),
        (["container:d?"], ["crun:db", "container:db"], ["crun:web-1"]),
        (["pid:*"], ["PID"], ["self", "name:blue"]),
        (["*"], ["name:blue", "self", "PID", "crun:db"], []),
        (["self"], ["self"], ["PID", "name:blue"]),
        ([], [], ["self", "PID", "name:blue", "crun:db"]),
    ],
)
def test_patterns_are_those_of_rules(
    daemon: Daemon, sleeper: Sleeper, blue: Path, patterns: list[str], fits: list[str], misses: list[str]
) -> None:
    with named_network("black"), named_network("green"), Sleeper() as database, daemon.connect() as broker:
        write_crun(daemon, **{"web-1": sleeper.pid, "db": database.pid})
        broker.restrict(patterns, namespaces=["net"])
        for target in fits:
            broker.open(target.replace("PID", f"pid:{sleeper.pid}"), "net").close()
        for target in misses:
            denies(partial(broker.open, target.replace("PID", f"pid:{sleeper.pid}"), "net"))


@needs_proven_root
def test_lists_show_a_container_only_within_the_restriction(daemon: Daemon) -> None:
    with Sleeper() as web, Sleeper() as db, daemon.connect() as broker:
        write_crun(daemon, web=web.pid, db=db.pid)
        assert {one.id for one in broker.containers().containers} == {"web", "db"}
        broker.restrict(["crun:web"], namespaces=["net"])
        assert [(one.id, one.types) for one in broker.containers().containers] == [("web", ["net"])]
        assert [(ns.inode, ns.containers) for ns in broker.list()] == [(web.inode("net"), ["crun:web"])]


def test_own_is_left_only_if_the_targets_have_it(daemon: Daemon) -> None:
    daemon.allow("more", who=[f"user:{ALICE}"], targets=["name:blue"], namespaces=["*"])
    with Sleeper(uid=ALICE) as one, Sleeper(uid=ALICE) as other, Sleeper(uid=BOB) as bobs:

        def use(broker: Broker, pid: int) -> str:
            try:
                broker.open(f"pid:{pid}", "net").close()
            except PermissionDenied:
                return "denied"
            return "opened"

        def restricted(targets: list[str]) -> tuple[list[str], list[int]]:
            with daemon.connect() as broker:
                broker.restrict(targets, namespaces=["net"])
                listed = {ns.inode for ns in broker.list(["net"])}
                known = [pid for pid, inode in inodes.items() if inode in listed]
                return [use(broker, sleeper.pid) for sleeper in (one, other, bobs)], known

        # What a user's `own` leaves, named by a pattern, is opened with that user's rights as before.
        outcomes = {
            ("own",): (["opened", "opened", "denied"], [one.pid, other.pid]),
            (f"pid:{one.pid}",): (["opened", "denied", "denied"], [one.pid]),
            ("*",): (["opened", "opened", "denied"], [one.pid, other.pid]),
            ("name:blue",): (["denied", "denied", "denied"], []),
        }
        inodes = {sleeper.pid: sleeper.inode("net") for sleeper in (one, other, bobs)}
        assert len(set(inodes.values())) == 3
        for targets, outcome in outcomes.items():
            assert as_user(ALICE, partial(restricted, list(targets))) == outcome


@needs_proven_root
def test_own_of_root_is_what_the_kernel_shows_to_root_without_capabilities(daemon: Daemon, sleeper: Sleeper) -> None:
    with Sleeper(uid=ALICE) as theirs, daemon.connect() as broker:
        broker.restrict(["own"], namespaces=["net"])
        broker.open("self", "net").close()
        # The sleeper has all capabilities.
        for target in (f"pid:{sleeper.pid}", f"pid:{theirs.pid}", "name:blue"):
            denies(partial(broker.open, target, "net"))


def test_devices_are_left_by_name(daemon: Daemon) -> None:
    daemon.allow("devices", who=[f"user:{ALICE}"], targets=["own"], devices=["null", "zero", "full"])

    def use() -> list[str]:
        with daemon.connect() as broker:
            broker.restrict(["self"], devices=["zero", "full", "null=1:5"])
            names = [node.name for node in broker.devices("self")]
            broker.device("self", "zero").close()
            denies(lambda: broker.device("self", "random"), lambda: broker.open("self", "net"))
            # The rule means 1:3 by null, and the restriction 1:5.
            with pytest.raises((PermissionDenied, nsbroker.errors.NoSuchDevice)):
                broker.device("self", "null")
            return names

    assert as_user(ALICE, use) == ["full", "zero"]


def test_held_namespaces_are_left_by_name_and_permission(daemon: Daemon) -> None:
    daemon.allow("lab", who=[f"user:{ALICE}"], targets=["name:lab-*", "own"], namespaces=["net"], create=["net"], hold=["net"])
    daemon.allow("bob", who=[f"user:{BOB}"], targets=["name:lab-*"], create=["net"], hold=["net"])

    def hold(broker: Broker, name: str) -> None:
        for ns in broker.create(["net"], name=name).namespaces.values():
            ns.close()

    def bob() -> None:
        with daemon.connect() as broker:
            hold(broker, "lab-bob")

    def alice() -> None:
        with daemon.connect() as free:
            hold(free, "lab-2")
            with daemon.connect() as broker:
                broker.restrict(["name:lab-1"], namespaces=["net"], create=["net"], hold=["net"])
                hold(broker, "lab-1")
                assert [one.name for one in broker.held()] == ["lab-1"]
                broker.open("name:lab-1", "net").close()
                denies(
                    lambda: hold(broker, "lab-3"),
                    lambda: broker.create(["net"]),
                    lambda: broker.open("name:lab-2", "net"),
                    lambda: broker.release("lab-2"),
                )
            with daemon.connect() as broker:
                broker.restrict(["name:lab-*"], namespaces=["net"])
                # What another user holds under a name that a pattern fits was not meant.
                assert [one.name for one in broker.held()] == ["lab-1", "lab-2"]
                denies(lambda: broker.release("lab-1"))
                with pytest.raises(NoSuchTarget):
                    broker.open("name:lab-bob", "net")
            with daemon.connect() as broker:
                broker.restrict(["own"], create=["net"])
                for ns in broker.create(["net"]).namespaces.values():
                    ns.close()
                denies(lambda: hold(broker, "lab-3"), lambda: broker.open("self", "net"))
                assert broker.held() == []
            with daemon.connect() as broker:
                broker.restrict(["name:lab-1"], hold=["net"])
                assert [one.name for one in broker.held()] == ["lab-1"]
                broker.release("lab-1")
                with pytest.raises(NoSuchTarget):
                    broker.release("lab-1")
            free.release("lab-2")

    as_user(BOB, bob)
    as_user(ALICE, alice)


@needs_proven_root
def test_a_pidfd_leads_only_to_what_is_left(daemon: Daemon, sleeper: Sleeper) -> None:
    with Sleeper() as other, daemon.connect() as broker:
        broker.restrict([f"pid:{sleeper.pid}"], namespaces=["net"])
        for pid, allowed in ((sleeper.pid, True), (other.pid, False)):
            pidfd = os.pidfd_open(pid)
            try:
                if allowed:
                    broker.open(Target.pidfd(pidfd), "net").close()
                else:
                    denies(partial(broker.open, Target.pidfd(pidfd), "net"))
            finally:
                os.close(pidfd)


def test_a_number_means_a_process_of_the_callers_own_pid_namespace(daemon: Daemon) -> None:
    if not features().pid_translation:
        pytest.skip("this kernel cannot translate numbers")
    code = """
import subprocess, nsbroker
from nsbroker.errors import PermissionDenied
child = subprocess.Popen(["sleep", "60"])
with nsbroker.connect() as broker:
    broker.restrict([f"pid:{child.pid}", "pid:99999"], namespaces=["net"])
    broker.open(f"pid:{child.pid}", "net").close()
    try:
        broker.open("pid:1", "net")
    except PermissionDenied:
        print("denied")
child.kill()
child.wait()
"""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", code]
    environment = {**os.environ, "NSBROKER_ADDRESS": daemon.address}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "denied\n", done.stderr
