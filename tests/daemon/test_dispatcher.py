"""The verbs, asked of a running daemon by real peers."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nsbroker import Target
from nsbroker.client.blocking import connect
from nsbroker.errors import (
    EngineUnavailable,
    InvalidParameter,
    NoSuchTarget,
    NotANamespace,
    NsbrokerError,
    PermissionDenied,
)
from nsbroker.model.identity import NamespaceType
from tests.world import ALICE, BOB, Daemon, Sleeper, as_user


def call(daemon: Daemon, method: str, parameters: object, fds: tuple[int, ...] = (), **header: object) -> dict[str, Any]:
    """One raw call and its reply; fds that come are closed."""
    from nsbroker.linux import ancillary

    with daemon.raw() as sock:
        ancillary.send(sock, msgspec.json.encode({"method": method, "parameters": parameters, **header}) + b"\0", fds)
        data, got = ancillary.receive_piece(sock, bytearray(70000), b"\0")
        ancillary.close_all(got)
    assert data, "the daemon hung up"
    reply: dict[str, Any] = msgspec.json.decode(data[:-1])
    return reply


def test_open_gives_the_very_namespaces_of_the_process(daemon: Daemon, sleeper: Sleeper) -> None:
    with daemon.connect() as broker:
        spaces = broker.open_all(f"pid:{sleeper.pid}")
        assert {kind: space.inode for kind, space in spaces.items()} == {kind: sleeper.inode(kind) for kind in NamespaceType}
        for space in spaces.values():
            assert not os.get_inheritable(space.fileno())
            space.close()


def test_every_way_to_name_a_target_leads_to_the_same_namespace(daemon: Daemon, sleeper: Sleeper, blue: Path) -> None:
    pidfd = os.pidfd_open(sleeper.pid)
    inode = sleeper.inode("net")
    targets: list[str | Target] = [f"pid:{sleeper.pid}", f"tid:{sleeper.pid}/{sleeper.pid}", f"net:[{inode}]", Target.pidfd(pidfd)]
    with daemon.connect() as broker:
        for target in targets:
            with broker.open(target, "net") as space:
                assert space.inode == inode
        with broker.open("self", "net") as space:
            assert space.inode == os.stat("/proc/self/ns/net").st_ino
        for target in ("name:blue", "path:/run/netns/blue"):
            with broker.open(target, "net") as space:
                assert space.inode == blue.stat().st_ino
    os.close(pidfd)


def test_a_thread_has_its_own(daemon: Daemon) -> None:
    from nsbroker.linux import setns

    ready, done = threading.Event(), threading.Event()

    def live() -> None:
        setns.unshare(setns.CLONE_NEWUTS)
        ready.set()
        done.wait()

    thread = threading.Thread(target=live)
    thread.start()
    ready.wait()
    with daemon.connect() as broker:
        with broker.open(f"tid:{os.getpid()}/{thread.native_id}", "uts") as space:
            assert space.inode == os.stat(f"/proc/self/task/{thread.native_id}/ns/uts").st_ino
        with pytest.raises(NoSuchTarget, match=f"tid:PROCESS/{thread.native_id}"):
            broker.open(f"pid:{thread.native_id}", "net")
    done.set()
    thread.join()


def test_missing_things_each_have_their_error(daemon: Daemon, sleeper: Sleeper, blue: Path) -> None:
    folder = blue.parent
    (folder / "plain").write_text("")
    os.mkfifo(folder / "fifo")
    (folder / "link").symlink_to("/proc/self/ns/net")
    (folder / "dangling").symlink_to("/nowhere")
    ended = os.pidfd_open(sleeper.pid)
    sleeper.end(reap=False)
    before = daemon.snapshot()
    cases: list[tuple[str | Target, str, type[NsbrokerError], str]] = [
        (f"pid:{sleeper.pid}", "net", NoSuchTarget, "ended"),
        ("pid:2147483647", "net", NoSuchTarget, "no such process"),
        (f"tid:{os.getpid()}/{sleeper.pid}", "net", NoSuchTarget, "no thread"),
        ("name:green", "net", NoSuchTarget, "no /run/netns/green"),
        ("name:plain", "net", NotANamespace, "plain file"),
        ("name:fifo", "net", NotANamespace, "FIFO"),
        ("name:link", "net", NotANamespace, "symbolic link"),
        ("name:dangling", "net", NotANamespace, "symbolic link"),
        ("path:/run/netns/missing", "net", NoSuchTarget, "no such file"),
        ("path:/run/netns/link", "net", NotANamespace, "symbolic link"),
        (f"path:/proc/{os.getpid()}/ns/net", "net", NotANamespace, "symbolic link"),
        ("path:/etc/passwd", "net", NotANamespace, "plain file"),
        ("name:blue", "uts", NotANamespace, "a net namespace, it has no uts"),
        ("docker:web", "net", EngineUnavailable, "docker"),
        ("unit:a.service", "net", EngineUnavailable, "systemd"),
        (Target.pidfd(ended), "net", NoSuchTarget, "ended"),
    ]
    with daemon.connect() as broker:
        for target, kind, error, text in cases:
            with pytest.raises(error, match=text):
                broker.open(target, kind)
    sleeper.end()
    with daemon.connect() as broker, pytest.raises(NoSuchTarget, match="ended"):
        broker.open(Target.pidfd(ended), "net")
    os.close(ended)
    daemon.settles_at(before)
    for name in ("plain", "fifo", "link", "dangling"):
        (folder / name).unlink()


def test_an_id_that_nothing_has_is_not_found(daemon: Daemon) -> None:
    with daemon.connect() as broker, pytest.raises(NoSuchTarget, match="keeps it alive"):
        broker.open("net:[1]", "net")


@pytest.mark.parametrize(
    ("parameters", "parameter"),
    [
        ({}, "target"),
        ({"target": {}}, "target"),
        ({"target": {"pid": 1, "name": "x"}}, "target"),
        ({"target": {"pid": -1}}, "target.pid"),
        ({"target": {"pid": 2**63}}, "target.pid"),
        ({"target": {"pid": True}}, "target.pid"),
        ({"target": {"pid": 1.5}}, "target.pid"),
        ({"target": {"pid": "1"}}, "target.pid"),
        ({"target": {"pids": 1}}, "target.pids"),
        ({"target": {"name": "../blue"}}, "target"),
        ({"target": {"name": "a\0b"}}, "target"),
        ({"target": {"name": "x" * 300}}, "target"),
        ({"target": {"pid": 1}, "types": ["network"]}, "types[0]"),
        ({"target": {"pid": 1}, "types": []}, "types"),
        ({"target": {"pid": 1}, "types": ["net", "net"]}, "types"),
        ({"target": {"pid": 1}, "types": [None]}, "types[0]"),
        ({"target": {"pid": 1}, "tyeps": ["net"]}, "tyeps"),
        ({"target": [None]}, "target"),
        ({"target": {"pidFileDescriptor": 0}}, "target.pidFileDescriptor"),
    ],
    ids=str,
)
def test_a_bad_parameter_is_named(daemon: Daemon, parameters: dict[str, object], parameter: str) -> None:
    reply = call(daemon, "io.nsbroker.Broker.Open", parameters)
    assert reply == {"error": "org.varlink.service.InvalidParameter", "parameters": {"parameter": parameter}}


@pytest.mark.parametrize("index", [-1, 1, 2**63, True, 1.5, "0", None])
def test_a_bad_index_is_refused_and_its_descriptors_closed(daemon: Daemon, index: object) -> None:
    before = daemon.snapshot()
    pidfd = os.pidfd_open(os.getpid())
    reply = call(daemon, "io.nsbroker.Broker.Open", {"target": {"pidFileDescriptor": index}}, (pidfd,))
    assert reply["error"] == "org.varlink.service.InvalidParameter"
    os.close(pidfd)
    daemon.settles_at(before)


def test_a_descriptor_too_many_is_refused_by_every_method(daemon: Daemon) -> None:
    before = daemon.snapshot()
    pidfd = os.pidfd_open(os.getpid())
    calls: list[tuple[str, dict[str, object], tuple[int, ...]]] = [
        ("io.nsbroker.Broker.Open", {"target": {"pidFileDescriptor": 0}}, (pidfd, pidfd)),
        ("io.nsbroker.Broker.Open", {"target": {"pid": os.getpid()}}, (pidfd,)),
        ("io.nsbroker.Broker.WhoAmI", {}, (pidfd,)),
        ("io.nsbroker.Broker.GetStatus", {}, (pidfd,)),
        ("io.nsbroker.Broker.Explain", {"target": {"pid": os.getpid()}}, (pidfd,)),
        ("org.varlink.service.GetInfo", {}, (pidfd,)),
        ("org.varlink.service.GetInterfaceDescription", {"interface": "io.nsbroker.Broker"}, (pidfd,) * 253),
    ]
    for method, parameters, fds in calls:
        assert call(daemon, method, parameters, fds)["error"] == "org.varlink.service.InvalidParameter", method
    os.close(pidfd)
    daemon.settles_at(before)


def test_what_is_no_pidfd_is_refused(daemon: Daemon) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    with daemon.connect() as broker, pytest.raises(InvalidParameter, match=r"target\.pidFileDescriptor"):
        broker.open(Target.pidfd(null), "net")
    os.close(null)


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("io.nsbroker.Broker.Opne", "org.varlink.service.MethodNotFound"),
        ("io.nsbroker.Other.Open", "org.varlink.service.InterfaceNotFound"),
        ("Open", "org.varlink.service.MethodNotFound"),
        ("", "org.varlink.service.MethodNotFound"),
    ],
)
def test_an_unknown_method_is_named(daemon: Daemon, method: str, error: str) -> None:
    assert call(daemon, method, {})["error"] == error


def test_upgrade_is_refused(daemon: Daemon) -> None:
    assert call(daemon, "io.nsbroker.Broker.WhoAmI", {}, upgrade=True)["error"] == "org.varlink.service.MethodNotImplemented"


@pytest.mark.root
def test_users_open_their_own_and_nothing_else(daemon: Daemon) -> None:
    with Sleeper(uid=ALICE) as mine, Sleeper(uid=BOB) as theirs, Sleeper() as roots:

        def ask() -> list[str]:
            answers = []
            with connect(daemon.address) as broker:
                for pid in (mine.pid, theirs.pid, roots.pid, 2**31 - 1):
                    try:
                        broker.open(f"pid:{pid}", "net").close()
                        answers.append("opened")
                    except PermissionDenied:
                        answers.append("denied")
            return answers

        assert as_user(ALICE, ask) == ["opened", "denied", "denied", "denied"]


@pytest.mark.root
def test_a_process_with_one_foreign_uid_is_nobodys_own(daemon: Daemon) -> None:
    ready, tell = os.pipe()
    with Sleeper(uid=ALICE) as plain:
        child = os.fork()
        if child == 0:
            os.setresgid(ALICE, ALICE, ALICE)
            os.setresuid(ALICE, ALICE, BOB)
            os.write(tell, b"!")
            time.sleep(60)
            os._exit(0)
        os.read(ready, 1)

        def ask(pid: int) -> Callable[[], bool]:
            def look() -> bool:
                with connect(daemon.address) as broker:
                    return broker.explain(f"pid:{pid}", ["net"]).allowed

            return look

        assert as_user(ALICE, ask(plain.pid))
        assert not as_user(ALICE, ask(child))
        assert not as_user(BOB, ask(child))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    os.close(ready)
    os.close(tell)


@pytest.mark.root
def test_a_rule_and_a_reload_let_a_user_in_and_only_so_far(daemon: Daemon, sleeper: Sleeper, blue: Path) -> None:
    def ask() -> list[str]:
        answers = []
        with connect(daemon.address) as broker:
            for target, kind in (("name:blue", "net"), ("name:green", "net"), (f"pid:{sleeper.pid}", "net"), ("name:blue", "uts")):
                try:
                    broker.open(target, kind).close()
                    answers.append("opened")
                except NsbrokerError as error:
                    answers.append(type(error).__name__)
        return answers

    assert as_user(ALICE, ask) == ["PermissionDenied"] * 4
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["name:*"], namespaces=["net"])
    assert as_user(ALICE, ask) == ["opened", "NoSuchTarget", "PermissionDenied", "PermissionDenied"]
    assert as_user(BOB, ask) == ["PermissionDenied"] * 4


@pytest.mark.root
def test_a_rule_for_self_lets_each_open_its_own_process_by_that_name_alone(daemon: Daemon) -> None:
    main = daemon.config / "nsbroker.toml"
    main.write_text('[[allow]]\nname = "self"\nwho = "everyone"\ntargets = ["self"]\nnamespaces = ["net"]\n')
    daemon.reload()

    def ask() -> tuple[bool, bool]:
        with connect(daemon.address) as broker:
            broker.open("self", "net").close()
            return broker.explain("self", ["net"]).allowed, broker.explain(f"pid:{os.getpid()}", ["net"]).allowed

    assert as_user(ALICE, ask) == (True, False)


@pytest.mark.root
def test_replies_to_who_may_not_know_are_the_same_to_the_byte(daemon: Daemon, sleeper: Sleeper, blue: Path) -> None:
    (blue.parent / "plain").write_text("")
    targets = [
        {"pid": sleeper.pid}, {"pid": 2**31 - 1}, {"tid": 5, "pid": sleeper.pid}, {"name": "blue"}, {"name": "green"},
        {"name": "plain"},
        {"path": "/run/netns/blue"}, {"path": "/nowhere"}, {"namespace": f"net:[{sleeper.inode('net')}]"}, {"namespace": "net:[1]"},
        {"container": "web"}, {"unit": "a.service"},
    ]  # fmt: skip

    def ask() -> list[dict[str, Any]]:
        return [call(daemon, "io.nsbroker.Broker.Open", {"target": target, "types": ["net"]}) for target in targets]

    assert as_user(ALICE, ask) == [{"error": "org.varlink.service.PermissionDenied", "parameters": {}}] * len(targets)
    (blue.parent / "plain").unlink()


@pytest.mark.root
def test_explain_says_which_rule_and_tells_no_more_than_open(daemon: Daemon, sleeper: Sleeper, blue: Path) -> None:
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["name:*"], namespaces=["net"])

    def ask(target: str) -> Callable[[], tuple[bool, list[tuple[str, str | None]]]]:
        def look() -> tuple[bool, list[tuple[str, str | None]]]:
            with connect(daemon.address) as broker:
                answer = broker.explain(target, ["net", "uts"] if target.startswith("pid") else None)
            return answer.allowed, [(str(verdict.type), verdict.rule) for verdict in answer.verdicts]

        return look

    assert as_user(ALICE, ask("name:blue")) == (True, [("net", "alice")])
    assert as_user(ALICE, ask(f"pid:{sleeper.pid}")) == (False, [("net", None), ("uts", None)])
    assert as_user(ALICE, ask(f"pid:{2**31 - 1}")) == (False, [("net", None), ("uts", None)])
    assert as_user(BOB, ask("name:blue"))[0] is False
    with daemon.connect() as broker, pytest.raises(NoSuchTarget):
        broker.explain("name:green")


@pytest.mark.root
def test_who_am_i_is_what_the_kernel_says(daemon: Daemon) -> None:
    def ask() -> tuple[int, int, list[int], bool, bool]:
        with connect(daemon.address) as broker:
            peer = broker.who_am_i()
        return peer.uid, peer.gid, peer.groups, peer.pid == os.getpid(), peer.anonymous

    assert as_user(ALICE, ask, groups=[77, 78]) == (ALICE, ALICE, [77, 78, ALICE], True, False)


def test_status_counts(daemon: Daemon) -> None:
    with daemon.connect() as broker, daemon.connect():
        broker.open(f"pid:{os.getpid()}", "net").close()
        status = broker.status()
    assert (status.rules, status.connections, status.file_descriptors) == (2, 2, 1)
    assert status.calls is not None
    assert status.calls >= 2
    assert set(status.features) >= {"peer_pidfd", "pidfd_info"}


def test_every_verdict_is_one_record(daemon: Daemon, sleeper: Sleeper) -> None:
    with daemon.connect() as broker:
        broker.open(f"pid:{sleeper.pid}", "net").close()
        with pytest.raises(NoSuchTarget):
            broker.open("name:green", "net")
        broker.explain("self", ["uts"])
    records = daemon.records()
    assert [(record["verb"], record["verdict"], record["rule"]) for record in records] == [
        ("Open", "allowed", "root"),
        ("Open", "failed", "root"),
        ("Explain", "allowed", "root"),
    ]
    assert records[0]["namespaces"] == f"net:[{sleeper.inode('net')}]"
    assert (records[0]["target"], records[0]["peer_pid"]) == (f"pid:{sleeper.pid}", os.getpid())
    assert "NoSuchTarget" in records[1]["error"]


def test_ten_thousand_opens_leave_the_daemon_as_it_was(daemon: Daemon, sleeper: Sleeper) -> None:
    def thousand(broker: Any) -> None:
        for number in range(1000):
            if number % 10 == 9:
                with pytest.raises(NsbrokerError):
                    broker.open(f"pid:{2**31 - 1}" if number % 20 == 9 else f"name:missing{number}", "net")
            else:
                broker.open(f"pid:{sleeper.pid}", "net").close()

    with daemon.connect() as broker:
        thousand(broker)
        before, memory = daemon.snapshot(), daemon.memory()
        for _ in range(10):
            thousand(broker)
        assert daemon.snapshot() == before
        assert daemon.memory() - memory < 512 * 1024
