"""A connection that gives rights away: every method, with a real daemon."""

import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

import nsbroker
from nsbroker.client.blocking import Broker
from nsbroker.errors import NotANamespace, PermissionDenied, QuotaExceeded
from nsbroker.linux import ancillary, descriptors
from nsbroker.linux.features import features
from tests.daemon.methods.restricting import denies, needs_proven_root, write_crun
from tests.world import ALICE, Daemon, Sleeper, as_user, named_network

BROKER = "io.nsbroker.Broker"
DONE: dict[str, object] = {"parameters": {}}
DENIED = {"error": "org.varlink.service.PermissionDenied", "parameters": {}}


@pytest.mark.root
@needs_proven_root
def test_every_method_gives_only_what_is_left(daemon: Daemon, sleeper: Sleeper, blue: Path) -> None:
    pid, inode = f"pid:{sleeper.pid}", os.stat(blue).st_ino
    with daemon.connect() as free, daemon.connect() as broker:
        for ns in free.create(["net"], name="lab").namespaces.values():
            ns.close()
        broker.restrict(["name:blue"], namespaces=["net"], sockets=["inet:dgram"])
        with broker.open("name:blue", "net") as ns:
            assert ns.inode == inode
        broker.socket("name:blue", type=socket.SOCK_DGRAM).close()
        denies(
            lambda: broker.open("name:blue", "uts"),
            lambda: broker.open(pid, "net"),
            lambda: broker.open("self", "net"),
            lambda: broker.open_all(pid),
            lambda: broker.open(f"net:[{inode}]", "net"),
            lambda: broker.open(f"path:{blue}", "net"),
            lambda: broker.open("container:web", "net"),
            lambda: broker.open("unit:init.scope", "net"),
            lambda: broker.socket("name:blue"),
            lambda: broker.socket(pid),
            lambda: broker.devices("self"),
            lambda: broker.device("self", "null"),
            lambda: broker.file("self", "net/dev"),
            lambda: broker.file("name:blue", "net/dev"),
            lambda: broker.list(target=pid),
            lambda: broker.create(["net"]),
            lambda: broker.create(["net"], name="other"),
            lambda: broker.hold("name:blue", "other", ["net"]),
            lambda: broker.release("lab"),
            lambda: broker.release("other"),
        )
        assert broker.explain("name:blue", ["net"], sockets=["inet:dgram"]).allowed
        for verdict in (broker.explain("name:blue", ["net"], sockets=["inet:stream"]), broker.explain(pid), broker.explain("self")):
            assert not verdict.allowed
        assert [ns.inode for ns in broker.list()] == [ns.inode for ns in broker.list(target="name:blue")] == [inode]
        assert broker.containers() == ([], [])
        assert broker.held() == []
        with broker.watch() as events:
            first, ready = next(events), next(events)
        assert first.namespace is not None
        assert (first.namespace.inode, ready.event) == (inode, "ready")
        assert (broker.who_am_i().uid, broker.status().connections) == (0, None)
        assert free.status().connections is not None
        assert [one.name for one in free.held()] == ["lab"]
        free.open(pid, "net").close()
        free.release("lab")


@pytest.mark.root
@needs_proven_root
def test_a_second_restriction_only_narrows(daemon: Daemon, sleeper: Sleeper, blue: Path) -> None:
    pid = f"pid:{sleeper.pid}"
    with named_network("green"), daemon.connect() as broker:
        broker.restrict(["name:*", pid], namespaces=["net", "uts"])
        for target in ("name:blue", "name:green", pid):
            broker.open(target, "net").close()
        broker.open(pid, "uts").close()
        denies(lambda: broker.open(pid, "ipc"), lambda: broker.open("self", "net"))
        # What this lists beyond the first one is no error, and gives nothing.
        broker.restrict(["name:blue", pid, "self", "path:*"], namespaces=["net", "ipc"], sockets=["*"], create=["*"])
        for target in ("name:blue", pid):
            broker.open(target, "net").close()
        for _ in range(3):
            denies(
                lambda: broker.open("name:green", "net"),
                lambda: broker.open(pid, "uts"),
                lambda: broker.open(pid, "ipc"),
                lambda: broker.open("self", "net"),
                lambda: broker.socket("name:blue"),
                lambda: broker.create(["net"]),
            )
            broker.restrict(["*", "own"], namespaces=["*"], sockets=["*"], devices=["*"], create=["*"], hold=["*"])
        broker.restrict(["name:green"], namespaces=["net"])
        for target in ("name:blue", "name:green", pid):
            denies(partial(broker.open, target, "net"))
        with pytest.raises(QuotaExceeded, match="restrictions of one connection"):
            broker.restrict(["name:red"], namespaces=["net"])
        # One that is there already is not counted again.
        broker.restrict(["name:green"], namespaces=["net"])


@pytest.fixture
def wire(daemon: Daemon) -> Iterator[Callable[..., Any]]:
    """A function that makes a call on one connection without the client, and returns the one reply."""
    with daemon.raw() as sock:

        def call(method: str, parameters: object, *, more: bool = False) -> Any:
            name = method if "." in method else f"{BROKER}.{method}"
            sock.send(msgspec.json.encode({"method": name, "parameters": parameters, "more": more}) + b"\0")
            data, fds = ancillary.receive_piece(sock, bytearray(70000), b"\0")
            descriptors.close_all(fds)
            return msgspec.json.decode(data.rstrip(b"\0"))

        yield call


@pytest.mark.root
def test_a_refusal_is_the_same_for_what_exists_and_what_does_not(
    daemon: Daemon, sleeper: Sleeper, blue: Path, wire: Callable[..., Any]
) -> None:
    write_crun(daemon, db=sleeper.pid)
    with daemon.connect() as free:
        if features().peer_pidfd:
            for ns in free.create(["net"], name="lab").namespaces.values():
                ns.close()
        assert wire("Restrict", {"targets": ["crun:web-*", "name:red"], "namespaces": ["net"], "hold": ["net"]}) == {
            "parameters": {}
        }
        inode = os.stat(blue).st_ino
        targets: list[dict[str, object]] = [
            {"pid": sleeper.pid},
            {"pid": 2**31 - 2},
            {"name": "blue"},
            {"name": "green"},
            {"name": "lab"},
            {"container": "db"},
            {"container": "nothing"},
            {"container": "db", "engine": "crun"},
            {"container": "nothing", "engine": "crun"},
            {"container": "nothing", "engine": "docker"},
            {"namespace": f"net:[{inode}]"},
            {"namespace": "net:[5]"},
            {"path": str(blue)},
            {"path": "/run/netns/green"},
            {"unit": "init.scope"},
            {"unit": "nothing.service"},
            {"self": True},
        ]
        for target in targets:
            assert wire("Open", {"target": target, "types": ["net"]}) == DENIED, target
            assert wire("Open", {"target": target}) == DENIED, target
            assert wire("OpenSocket", {"target": target, "family": "inet", "type": "stream"}) == DENIED
            assert wire("ListDevices", {"target": target}) == DENIED
            assert wire("OpenDevice", {"target": target, "name": "null", "access": "read"}) == DENIED
            assert wire("List", {"target": target}, more=True) == DENIED
            assert wire("Hold", {"target": target, "types": ["net"], "name": "red"}) == DENIED
            explained = wire("Explain", {"target": target, "types": ["net"]})["parameters"]
            assert (explained["allowed"], explained["verdicts"]) == (False, [{"type": "net", "allowed": False}])
        for name in ("lab", "nothing"):
            assert wire("Release", {"name": name}) == DENIED
            assert wire("Create", {"types": ["net"], "name": name}) == DENIED
        if features().peer_pidfd:
            # What the restriction names may be known to be missing.
            assert wire("Open", {"target": {"name": "red"}, "types": ["net"]})["error"] == f"{BROKER}.NoSuchTarget"
            free.release("lab")


@pytest.mark.root
def test_a_restriction_survives_a_reload_and_a_reload_narrows_it(daemon: Daemon, blue: Path) -> None:
    daemon.allow("names", who=[f"user:{ALICE}"], targets=["name:*"], namespaces=["net"])
    go, ready = os.pipe(), os.pipe()

    def use() -> list[str]:
        outcome = []
        with named_broker() as broker:
            broker.restrict(["name:blue"], namespaces=["net", "uts"])
            for _ in range(3):
                for target in ("name:blue", "name:green", "self"):
                    try:
                        broker.open(target, "net").close()
                        outcome.append("opened")
                    except PermissionDenied:
                        outcome.append("denied")
                os.write(ready[1], b"!")
                os.read(go[0], 1)
        return outcome

    def named_broker() -> Broker:
        return nsbroker.connect(daemon.address)

    def reload() -> None:
        os.read(ready[0], 1)
        daemon.allow("names", who=[f"user:{ALICE}"], targets=["*"], namespaces=["*"], sockets=["*"])
        os.write(go[1], b"!")
        os.read(ready[0], 1)
        (daemon.config / "nsbroker.d/names.toml").unlink()
        daemon.reload()
        os.write(go[1], b"!")
        os.read(ready[0], 1)
        os.write(go[1], b"!")

    thread = threading.Thread(target=reload)
    thread.start()
    with named_network("green"):
        outcome = as_user(ALICE, use)
    thread.join()
    for fd in (*go, *ready):
        os.close(fd)
    assert outcome == ["opened", "denied", "denied"] * 2 + ["denied"] * 3


def test_a_restriction_is_recorded_with_what_remains(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        broker.restrict(["self", "name:*"], namespaces=["net", "uts"], sockets=["*"])
        broker.restrict(["own"], namespaces=["net"], sockets=["inet:stream"], create=["net"])
        broker.restrict([])
        with pytest.raises(PermissionDenied):
            broker.open("self", "net")
    kept = [(record["method"], record["verdict"], record["target"], record["wanted"]) for record in daemon.records()]
    assert kept == [
        ("Restrict", "allowed", "self name:*", "namespaces net uts, sockets *"),
        ("Restrict", "allowed", "self name:* & own", "namespaces net, sockets inet:stream"),
        ("Restrict", "allowed", "self name:* & own & nothing", "nothing"),
        ("Open", "denied", "self", "net"),
    ]


@pytest.mark.parametrize(
    ("parameters", "parameter"),
    [
        ({}, "targets"),
        ({"targets": "own"}, "targets"),
        ({"targets": ["blue"]}, "targets"),
        ({"targets": [""]}, "targets"),
        ({"targets": ["name:../x"]}, "targets"),
        ({"targets": ["nosuch:*"]}, "targets"),
        ({"targets": ["*:web"]}, "targets"),
        ({"targets": ["name:a\n*"]}, "targets"),
        ({"targets": ["name:\x1b*"]}, "targets"),
        ({"targets": ["name:" + "*-" * 40]}, "targets"),
        ({"targets": ["name:*" + "x" * 1100]}, "targets"),
        ({"targets": ["pid:0"]}, "targets"),
        ({"targets": [5]}, "targets[0]"),
        ({"targets": ["own"], "namespaces": ["network"]}, "namespaces[0]"),
        ({"targets": ["own"], "namespaces": ["*"]}, "namespaces[0]"),
        ({"targets": ["own"], "sockets": ["inet"]}, "sockets"),
        ({"targets": ["own"], "sockets": ["inet:stream"] * 33}, "sockets"),
        ({"targets": ["own"], "devices": ["../null"]}, "devices"),
        ({"targets": ["own"], "devices": ["mine"]}, "devices"),
        ({"targets": ["own"], "devices": ["null"] * 33}, "devices"),
        ({"targets": ["own"], "marks": ["0"]}, "marks"),
        ({"targets": ["own"], "marks": ["2-1"]}, "marks"),
        ({"targets": ["own"], "marks": ["0x100000000"]}, "marks"),
        ({"targets": ["own"], "marks": ["1"] * 33}, "marks"),
        ({"targets": ["own"], "marks": [256]}, "marks[0]"),
        ({"targets": ["own"], "interfaces": ["bridge"]}, "interfaces[0]"),
        ({"targets": ["own"], "interfaces": ["*"]}, "interfaces[0]"),
        ({"targets": ["own"], "create": ["x"]}, "create[0]"),
        ({"targets": ["own"], "hold": "net"}, "hold"),
        ({"targets": ["own"], "types": ["net"]}, "types"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_garbage_is_refused_and_restricts_nothing(wire: Callable[..., Any], parameters: dict[str, object], parameter: str) -> None:
    error = wire("Restrict", parameters)
    assert error["error"] == "org.varlink.service.InvalidParameter"
    assert error["parameters"]["parameter"] == parameter
    assert "error" not in wire("Open", {"target": {"self": True}, "types": ["net"]})


@pytest.mark.root
@needs_proven_root
def test_marks_and_interfaces_are_left_only_as_far_as_they_are_given(daemon: Daemon, blue: Path) -> None:
    def mark(value: int, target: str = "name:blue") -> None:
        with broker.socket(target, mark=value) as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == value

    with named_network("green"), daemon.connect() as broker:
        broker.restrict(["name:*"], sockets=["inet:stream"], marks=["0x100-0x1ff", "7"], interfaces=["veth"])
        for value in (7, 0x100, 0x1FF):
            mark(value)
        denies(*(partial(mark, value) for value in (1, 6, 8, 0xFF, 0x200, 2**32 - 1)))
        broker.add_veth("name:blue", "eth0", "name:green", "eth0")
        denies(lambda: broker.add_tap("name:blue", "tap0"))
        # What the second one lists beyond the first is no error, and gives nothing.
        broker.restrict(["name:blue"], sockets=["*"], marks=["0x180-0xffff"], interfaces=["*"])
        mark(0x180)
        denies(*(partial(mark, value) for value in (7, 0x100, 0x17F, 0x200)), lambda: mark(0x180, "name:green"))
        denies(lambda: broker.add_veth("name:blue", "eth1", "name:green", "eth1"), lambda: broker.add_tap("name:blue", "tap0"))
        broker.add_veth("name:blue", "eth1", "name:blue", "eth2")
        assert broker.explain("name:blue", marks=[0x180], interfaces=["veth"]).allowed
        assert not broker.explain("name:blue", marks=[0x100]).allowed
        broker.restrict(["*"], sockets=["*"])
        broker.socket("name:blue").close()
        denies(lambda: mark(0x180), lambda: broker.add_veth("name:blue", "eth3", "name:blue", "eth4"))
    restricted = [record["wanted"] for record in daemon.records() if record["method"] == "Restrict"]
    assert restricted == [
        "sockets inet:stream, marks 0x7 0x100-0x1ff, interfaces veth",
        "sockets inet:stream, marks 0x180-0x1ff, interfaces veth",
        "sockets inet:stream",
    ]


@pytest.mark.root
def test_a_restriction_to_all_marks_gives_no_mark_that_no_rule_allows(daemon: Daemon, blue: Path) -> None:
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["name:blue"], sockets=["inet:dgram"], marks=["5"])

    def ask() -> str:
        with nsbroker.connect(daemon.address) as broker:
            broker.restrict(["*"], sockets=["*"], marks=["*"])
            broker.socket("name:blue", type=socket.SOCK_DGRAM, mark=5).close()
            denies(lambda: broker.socket("name:blue", type=socket.SOCK_DGRAM, mark=6))
        return "narrow"

    assert as_user(ALICE, ask) == "narrow"


def test_pipelined_calls_behind_a_restriction_are_restricted(daemon: Daemon) -> None:
    request = b'{"method":"io.nsbroker.Broker.Open","parameters":{"target":{"self":true},"types":["net"]}}\0'
    restrict = (
        b'{"method":"io.nsbroker.Broker.Restrict","parameters":{"targets":["name:blue"],"namespaces":["net"]},"oneway":true}\0'
    )
    with daemon.raw() as sock:
        sock.send(request + restrict + request + request)
        replies, fds = b"", []
        while replies.count(b"\0") < 3:
            data, new = ancillary.receive_piece(sock, bytearray(70000), b"\0")
            replies += data
            fds += new
        descriptors.close_all(fds)
    first, *others = [msgspec.json.decode(one) for one in replies.split(b"\0")[:-1]]
    assert len(fds) == 1
    assert "error" not in first
    assert others == [DENIED, DENIED]


def test_a_descriptor_with_a_restriction_is_refused(daemon: Daemon) -> None:
    pidfd = os.pidfd_open(os.getpid())
    with daemon.raw() as sock:
        ancillary.send(sock, b'{"method":"io.nsbroker.Broker.Restrict","parameters":{"targets":["own"]}}\0', [pidfd])
        data, _ = ancillary.receive_piece(sock, bytearray(70000), b"\0")
    os.close(pidfd)
    assert msgspec.json.decode(data.rstrip(b"\0"))["error"] == "org.varlink.service.InvalidParameter"


def test_another_connection_of_the_same_process_is_not_restricted(daemon: Daemon) -> None:
    with daemon.connect() as one, daemon.connect() as other:
        one.restrict(["name:blue"], namespaces=["net"])
        denies(lambda: one.open("self", "net"))
        other.open("self", "net").close()


def test_many_restricted_connections_leave_nothing_behind(daemon: Daemon) -> None:
    before = daemon.snapshot()
    for number in range(50):
        with daemon.connect() as broker:
            broker.restrict([f"name:x{number}-*", "own"], namespaces=["net"])
            broker.open("self", "net").close()
    daemon.settles_at(before)


@pytest.mark.root
@needs_proven_root
def test_a_type_that_the_target_lacks_is_told_only_within_the_restriction(daemon: Daemon, blue: Path) -> None:
    with daemon.connect() as broker:
        broker.restrict(["name:blue"], namespaces=["net", "uts"])
        with pytest.raises(NotANamespace):
            broker.open("name:blue", "uts")
        denies(lambda: broker.open("name:blue", "ipc"))


def test_every_method_takes_the_rights_of_its_caller_from_one_place() -> None:
    """Whoever asked the policy directly would forget the restriction."""
    daemon = Path(nsbroker.__file__).parent / "daemon"
    asking = {str(path.relative_to(daemon)) for path in daemon.rglob("*.py") if re.search(r"policy\.grants\(", path.read_text())}
    assert asking == {"methods/call.py"}
    owners = {str(path.relative_to(daemon)) for path in daemon.rglob("*.py") if re.search(r"\.owns\(ROOT\)", path.read_text())}
    # The scan of root is not made to wait, which tells nobody anything.
    assert owners == {"methods/call.py", "discovery/views.py"}


def test_a_daemon_that_stops_ends_a_restricted_connection_as_any_other(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        broker.restrict(["own"], namespaces=["net"])
        assert daemon.stop(signal.SIGTERM) == 0
        daemon.start()
        broker.open("self", "net").close()
        denies(lambda: broker.open("self", "uts"))
