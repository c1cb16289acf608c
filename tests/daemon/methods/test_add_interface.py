"""AddInterface: veth pairs and taps in real networks."""

import contextlib
import fcntl
import os
import select
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nsbroker.client.blocking import Broker, connect
from nsbroker.errors import BrokerError, InterfaceFailed, NoSuchTarget
from nsbroker.model.target import Target
from nsbroker.namespace import Namespace
from tests.daemon.methods.restricting import denies, needs_proven_root
from tests.daemon.test_dispatcher import call
from tests.world import ALICE, BOB, PATIENCE, Daemon, Sleeper, as_user, eventually, named_network

pytestmark = pytest.mark.root

_TUNSETPERSIST = 0x400454CB
METHOD = "io.nsbroker.Broker.AddInterface"
_ETHERTYPE = 0x88B5
"""For experiments: IEEE Std 802."""
FRAME = b"\xff" * 6 + b"\x02\0\0\0\0\x01" + struct.pack("!H", _ETHERTYPE)


@pytest.fixture
def ends() -> Iterator[tuple[str, str]]:
    """Two named networks."""
    names = f"near-{os.getpid()}", f"far-{os.getpid()}"
    with named_network(names[0]), named_network(names[1]):
        yield f"name:{names[0]}", f"name:{names[1]}"


def interfaces(target: str) -> dict[str, bool]:
    """The interfaces of a named network, but for those that the kernel puts into each, and whether they are up."""
    name = target.removeprefix("name:")
    text = subprocess.run(["ip", "-n", name, "-o", "link"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(": ") for line in text.splitlines()]
    found = {row[1].partition("@")[0]: "UP" in row[2].split(">")[0].strip("<").split(",") for row in rows}
    return {name: up for name, up in found.items() if name.startswith(("eth", "lab", "tap"))}


def ip(target: str, *arguments: str) -> None:
    subprocess.run(["ip", "-n", target.removeprefix("name:"), *arguments], check=True)


def allow(daemon: Daemon, *kinds: str, targets: str = "name:*", who: int = ALICE) -> None:
    daemon.allow(f"wires-{who}", who=[f"user:{who}"], targets=[targets], interfaces=list(kinds))


def outcome(daemon: Daemon, ask: Callable[[Broker], object]) -> Callable[[], str]:
    """Return a function that asks the broker, and returns the error as text."""

    def run() -> str:
        with connect(daemon.address) as broker:
            try:
                ask(broker)
            except BrokerError as error:
                return f"{type(error).__name__}: {error}"
        return "added"

    return run


def add_and_close(target: str, name: str, broker: Broker) -> None:
    broker.add_tap(target, name).close()


def test_bytes_go_through_a_veth_that_an_unprivileged_user_adds(daemon: Daemon, ends: tuple[str, str]) -> None:
    near, far = ends
    allow(daemon, "veth")
    assert as_user(ALICE, outcome(daemon, lambda broker: broker.add_veth(near, "eth0", far, "lab0"))) == "added"
    assert (interfaces(near), interfaces(far)) == ({"eth0": True}, {"lab0": True})
    ip(near, "addr", "add", "192.0.2.1/24", "dev", "eth0")
    ip(far, "addr", "add", "192.0.2.2/24", "dev", "lab0")
    with Namespace.from_name(near.removeprefix("name:")) as here, Namespace.from_name(far.removeprefix("name:")) as there:
        server = there.call(socket.create_server, ("192.0.2.2", 8080))
        with server, here.call(socket.create_connection, ("192.0.2.2", 8080), PATIENCE) as sock:
            peer, _ = server.accept()
            with peer:
                peer.sendall(b"through the cable")
            assert sock.recv(100) == b"through the cable"
    ip(near, "link", "del", "eth0")
    assert interfaces(far) == {}


def test_each_end_is_recorded_before_the_reply(daemon: Daemon, ends: tuple[str, str]) -> None:
    near, far = ends
    with daemon.connect() as broker:
        broker.add_veth(near, "eth0", far, "lab0")
        broker.add_tap(near, "tap0").close()
    records = [record for record in daemon.records() if record["method"] == "AddInterface"]
    assert [(one["target"], one["wanted"], one["verdict"], one["rule"]) for one in records] == [
        (near, "interface veth eth0", "allowed", "root"),
        (far, "interface veth lab0", "allowed", "root"),
        (near, "interface tap tap0", "allowed", "root"),
    ]
    assert all(one["namespaces"].startswith("net:[") for one in records)


def test_frames_go_into_and_out_of_a_tap_of_an_unprivileged_user(daemon: Daemon, ends: tuple[str, str]) -> None:
    near, _ = ends
    allow(daemon, "tap")

    def exchange() -> tuple[bytes, bytes, bool]:
        with connect(daemon.address) as broker, broker.add_tap(near, "tap0") as tap:
            with broker.socket(near, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETHERTYPE)) as packets:
                packets.bind(("tap0", _ETHERTYPE))
                packets.settimeout(PATIENCE)
                tap.write(FRAME + b"inwards")
                inwards = packets.recv(100)
                packets.send(FRAME + b"outwards")
                outwards: bytes | None = b""
                while not outwards or outwards[12:14] != FRAME[12:14]:
                    # The network says hello over IPv6, too.
                    assert select.select([tap], [], [], PATIENCE)[0]
                    outwards = tap.read(65536)
            return inwards, outwards, os.get_inheritable(tap.fileno())

    daemon.allow("packets", who=[f"user:{ALICE}"], targets=["name:*"], sockets=["packet:raw"])
    assert as_user(ALICE, exchange) == (FRAME + b"inwards", FRAME + b"outwards", False)
    # It ended with its file.
    eventually(lambda: interfaces(near) == {}, "the tap ends")


def test_a_tap_is_up_and_belongs_to_the_caller(daemon: Daemon, ends: tuple[str, str]) -> None:
    near, _ = ends
    allow(daemon, "tap")

    def add() -> None:
        with connect(daemon.address) as broker, broker.add_tap(near, "tap0") as tap:
            fcntl.ioctl(tap, _TUNSETPERSIST, 1)

    as_user(ALICE, add)
    # Now it stays without its file, so that the kernel can be asked about it.
    assert interfaces(near) == {"tap0": True}
    show = ["ip", "-n", near.removeprefix("name:"), "-d", "link", "show", "tap0"]
    text = subprocess.run(show, capture_output=True, text=True, check=True).stdout
    assert f"tun type tap pi off vnet_hdr off persist on user {ALICE}" in text


def test_a_tap_ends_with_the_last_copy_of_its_descriptor(daemon: Daemon, ends: tuple[str, str]) -> None:
    near, _ = ends
    with daemon.connect() as broker, broker.add_tap(near, "tap0") as tap:
        copy = os.dup(tap.fileno())
    assert interfaces(near) == {"tap0": True}
    os.close(copy)
    eventually(lambda: interfaces(near) == {}, "the tap ends")


@needs_proven_root
def test_each_kind_is_a_permission_of_its_own_and_both_ends_need_it(daemon: Daemon, ends: tuple[str, str]) -> None:
    near, far = ends

    def try_all() -> list[str]:
        asked: list[Callable[[Broker], object]] = [
            lambda broker: broker.add_veth(near, "eth0", far, "lab0"),
            lambda broker: broker.add_veth(far, "lab0", near, "eth0"),
            lambda broker: broker.add_tap(near, "tap0").close(),
        ]
        return [outcome(daemon, ask)().partition(":")[0] for ask in asked]

    everything_else: dict[str, Any] = {"namespaces": ["*"], "sockets": ["*"], "marks": ["*"], "devices": ["*"]}
    daemon.allow("most", who=[f"user:{ALICE}"], targets=["*", "own"], create=["*"], hold=["*"], **everything_else)
    denied = "PermissionDenied"
    assert as_user(ALICE, try_all) == [denied, denied, denied]
    allow(daemon, "tap")
    assert as_user(ALICE, try_all) == [denied, denied, "added"]
    allow(daemon, "veth", targets=near)
    assert as_user(ALICE, try_all) == [denied, denied, denied]
    # The broker closes its own copy of the tap a moment after the reply.
    eventually(lambda: interfaces(near) == interfaces(far) == {}, "the tap ends")
    allow(daemon, "veth")
    assert as_user(ALICE, try_all) == ["added", "InterfaceFailed", denied]
    assert as_user(BOB, try_all) == [denied, denied, denied]


def test_the_refusal_says_which_permission_is_missing_and_is_recorded(daemon: Daemon, ends: tuple[str, str]) -> None:
    near, far = ends
    allow(daemon, "veth", targets=near)
    text = as_user(ALICE, outcome(daemon, lambda broker: broker.add_veth(near, "eth0", far, "lab0")))
    assert f"add the veth eth0, with its other end lab0 in {far}, to" in text
    assert "interfaces veth" in text
    record = [record for record in daemon.records() if record["method"] == "AddInterface"][-1]
    assert (record["target"], record["wanted"], record["verdict"]) == (far, "interface veth lab0", "denied")


def test_a_refusal_is_the_same_whether_the_target_exists_or_not(daemon: Daemon, ends: tuple[str, str]) -> None:
    near, far = ends
    allow(daemon, "veth", "tap", targets=near)

    def ask() -> list[object]:
        replies: list[object] = []
        for name in (far.removeprefix("name:"), "missing"):
            target = {"name": name}
            here = {"target": {"name": near.removeprefix("name:")}, "kind": "veth", "name": "eth0"}
            there = {"target": target, "kind": "veth", "name": "eth0", "peer": {**here, "name": "lab0"}}
            del there["peer"]["kind"]  # type: ignore[attr-defined]  # of the dict that was just made
            replies.append(call(daemon, METHOD, {**here, "peer": {"target": target, "name": "lab0"}}))
            replies.append(call(daemon, METHOD, there))
            replies.append(call(daemon, METHOD, {"target": target, "kind": "tap", "name": "tap0"}))
        return replies

    assert as_user(ALICE, ask) == [{"error": "org.varlink.service.PermissionDenied", "parameters": {}}] * 6


NAMES = ["", "a" * 16, "a/b", "a:b", "%d", "a b", "a\nb", ".", "..", "all", "default"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_none_is_an_invalid_parameter(daemon: Daemon, ends: tuple[str, str], name: str) -> None:
    target = {"name": ends[0].removeprefix("name:")}
    veth = {"target": target, "kind": "veth", "name": "eth0"}
    for parameters, parameter in (
        ({"target": target, "kind": "tap", "name": name}, "name"),
        ({**veth, "name": name, "peer": {"target": target, "name": "lab0"}}, "name"),
        ({**veth, "peer": {"target": target, "name": name}}, "peer.name"),
    ):
        reply = call(daemon, METHOD, parameters)
        assert reply == {"error": "org.varlink.service.InvalidParameter", "parameters": {"parameter": parameter}}
    assert interfaces(ends[0]) == {}


def test_other_parameters_that_do_not_fit_are_refused_by_name(daemon: Daemon, ends: tuple[str, str]) -> None:
    target = {"name": ends[0].removeprefix("name:")}
    whole = {"target": target, "kind": "veth", "name": "eth0", "peer": {"target": target, "name": "lab0"}}
    for change, parameter in (
        ({"kind": "bridge"}, "kind"),
        ({"kind": "tap"}, "peer"),
        ({"peer": None}, "peer"),
        ({"peer": {"target": {"name": "../x"}, "name": "lab0"}}, "peer.target"),
        ({"target": {"name": "../x"}}, "target"),
        ({"target": {"pidFileDescriptor": 0}}, "target.pidFileDescriptor"),
        ({"peer": {"target": {"pidFileDescriptor": 0}, "name": "lab0"}}, "peer.target.pidFileDescriptor"),
        ({"surprise": 1}, "surprise"),
    ):
        reply = call(daemon, METHOD, {**whole, **change})
        assert reply["error"] == "org.varlink.service.InvalidParameter", (change, reply)
        assert reply["parameters"]["parameter"] == parameter, change
    assert interfaces(ends[0]) == {}


def test_pidfds_of_both_ends_mean_these_very_processes(daemon: Daemon, sleeper: Sleeper, ends: tuple[str, str]) -> None:
    before = daemon.snapshot()
    with Sleeper() as other, contextlib.ExitStack() as stack, daemon.connect() as broker:
        fds = [os.pidfd_open(process.pid) for process in (sleeper, other)]
        for fd in fds:
            stack.callback(os.close, fd)
        broker.add_veth(Target.pidfd(fds[0]), "eth0", Target.pidfd(fds[1]), "lab0")
        for process, name in ((sleeper, "eth0"), (other, "lab0")):
            with Namespace.from_pid(process.pid, "net") as ns:
                assert name in [found for _, found in ns.call(socket.if_nameindex)]
        broker.add_veth(ends[0], "eth0", Target.pidfd(fds[1]), "lab1")
        broker.add_veth(Target.pidfd(fds[1]), "lab2", ends[0], "eth2")
        assert sorted(interfaces(ends[0])) == ["eth0", "eth2"]
        # If the first target is refused, the pidfd of the second one is closed, too.
        with pytest.raises(NoSuchTarget):
            broker.add_veth("name:missing", "eth1", Target.pidfd(fds[1]), "lab1")
    daemon.settles_at(before)


def test_nothing_is_added_to_the_hosts_network_by_accident(daemon: Daemon, ends: tuple[str, str]) -> None:
    with Sleeper(unshare="--uts") as process, daemon.connect() as broker:
        target = f"pid:{process.pid}"
        for ask in (
            lambda: broker.add_tap(target, "tap0"),
            lambda: broker.add_veth(target, "eth0", ends[0], "lab0"),
            lambda: broker.add_veth(ends[0], "eth0", target, "lab0"),
        ):
            with pytest.raises(NoSuchTarget, match="uses the host's: name that network itself if you mean it"):
                ask()
        assert interfaces(ends[0]) == {}


def test_a_name_that_is_taken_is_an_error_that_names_the_end(daemon: Daemon, ends: tuple[str, str]) -> None:
    near, far = ends
    with daemon.connect() as broker, broker.add_tap(near, "tap0"):
        broker.add_veth(near, "eth0", far, "lab0")
        for ask, words in (
            (lambda: broker.add_veth(near, "eth0", far, "lab1"), f"interface eth0 to {near}"),
            (lambda: broker.add_veth(near, "eth1", far, "lab0"), f"interface lab0 to {far}"),
            (lambda: broker.add_veth(near, "eth9", near, "eth0"), "interface "),
            (lambda: broker.add_tap(near, "tap0"), f"interface tap0 to {near}"),
            (lambda: broker.add_tap(near, "eth0"), f"interface eth0 to {near}"),
        ):
            with pytest.raises(InterfaceFailed, match="there is an interface with that name already") as raised:
                ask()
            assert words in str(raised.value)
        assert (interfaces(near), interfaces(far)) == ({"eth0": True, "tap0": True}, {"lab0": True})
    failed = [record for record in daemon.records() if record["verdict"] == "failed"]
    assert "interface eth0" in failed[0]["error"]


def test_a_container_with_a_user_namespace_of_its_own_gets_interfaces(daemon: Daemon, ends: tuple[str, str]) -> None:
    near, _ = ends
    with Sleeper(unshare="--user --map-root-user --net", uid=0) as process, daemon.connect() as broker:
        target = f"pid:{process.pid}"
        with Namespace.from_pid(process.pid, "net") as ns, broker.add_tap(target, "tap0"):
            broker.add_veth(target, "eth0", near, "lab0")
            assert {"eth0", "tap0"} <= {name for _, name in ns.call(socket.if_nameindex)}
        # The root of the container may do with it what it likes.
        enter = ["nsenter", "--user", "--preserve-credentials", "--net", "--target", str(process.pid)]
        subprocess.run([*enter, "ip", "addr", "add", "192.0.2.1/24", "dev", "eth0"], check=True)


def test_interfaces_of_one_user_are_limited(tmp_path: Path, ends: tuple[str, str]) -> None:
    near, far = ends
    with Daemon(tmp_path, limits="interfaces-per-user = 2") as daemon:
        allow(daemon, "*")

        def many() -> list[str]:
            return [outcome(daemon, partial(add_and_close, near, f"tap{number}"))() for number in range(3)]

        added, again, refused = as_user(ALICE, many)
        assert (added, again) == ("added", "added")
        assert refused.startswith("QuotaExceeded")
        assert "interfaces-per-user" in refused
        # Nobody else is limited by that, and root is not limited at all.
        allow(daemon, "*", who=BOB)
        assert as_user(BOB, outcome(daemon, lambda broker: broker.add_veth(near, "eth0", far, "lab0"))) == "added"
        with daemon.connect() as broker:
            for number in range(4):
                broker.add_veth(near, f"eth1{number}", far, f"lab1{number}")


def test_a_target_that_has_ended_is_no_target(daemon: Daemon, ends: tuple[str, str]) -> None:
    with Sleeper() as process, daemon.connect() as broker:
        process.end(reap=False)
        target = f"pid:{process.pid}"
        for ask in (
            lambda: broker.add_tap(target, "tap0"),
            lambda: broker.add_veth(target, "eth0", ends[0], "lab0"),
            lambda: broker.add_veth(ends[0], "eth0", target, "lab0"),
        ):
            with pytest.raises(NoSuchTarget):
                ask()
    assert interfaces(ends[0]) == {}


def test_targets_that_end_meanwhile_cost_nothing(daemon: Daemon, ends: tuple[str, str]) -> None:
    """Whatever the moment at which the process ends, the call succeeds or says so, and the daemon keeps nothing."""
    before = daemon.snapshot()
    for number in range(15):
        with Sleeper(unshare="--net") as process, daemon.connect() as broker:
            killer = subprocess.Popen(["sh", "-c", f"kill -9 {process.pid}"])
            with contextlib.suppress(NoSuchTarget, InterfaceFailed):
                broker.add_veth(ends[0], f"eth{number}", f"pid:{process.pid}", "lab0")
                with broker.add_tap(f"pid:{process.pid}", "tap0") as tap:
                    assert os.fstat(tap.fileno()).st_rdev == os.makedev(10, 200)
            killer.wait()
    daemon.settles_at(before)


def test_a_client_that_goes_away_leaves_no_tap_and_no_descriptor(daemon: Daemon, ends: tuple[str, str]) -> None:
    before = daemon.snapshot()
    text = b'{"method":"%s","parameters":{"target":{"name":"%s"},"kind":"tap","name":"tap%d"}}\0'
    for number in range(20):
        with daemon.raw() as sock:
            sock.send(text % (METHOD.encode(), ends[0].removeprefix("name:").encode(), number))
    daemon.settles_at(before)
    eventually(lambda: interfaces(ends[0]) == {}, "taps that nobody took end")


def test_without_the_capability_the_error_says_what_the_unit_lacks(tmp_path: Path, ends: tuple[str, str]) -> None:
    prefix = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    with Daemon(tmp_path, prefix=prefix) as daemon, daemon.connect() as broker:
        for ask in (lambda: broker.add_tap(ends[0], "tap0"), lambda: broker.add_veth(ends[0], "eth0", ends[1], "lab0")):
            with pytest.raises(InterfaceFailed, match="CapabilityBoundingSet="):
                ask()
        assert interfaces(ends[0]) == interfaces(ends[1]) == {}


def test_without_the_device_the_error_says_where_it_comes_from(tmp_path: Path, ends: tuple[str, str]) -> None:
    script = 'mount -t tmpfs tmpfs /dev/net && exec "$@"'
    prefix = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh"]
    with Daemon(tmp_path, prefix=prefix) as daemon, daemon.connect() as broker:
        with pytest.raises(InterfaceFailed, match="the broker has no /dev/net/tun"):
            broker.add_tap(ends[0], "tap0")
        broker.add_veth(ends[0], "eth0", ends[1], "lab0")
    # It failed before anything was recorded as allowed.
    records = [record for record in daemon.records() if record["wanted"] == "interface tap tap0"]
    assert [record["verdict"] for record in records] == ["failed"]


@needs_proven_root
def test_a_restricted_connection_has_only_the_kinds_that_it_kept(daemon: Daemon, ends: tuple[str, str]) -> None:
    near, far = ends
    with daemon.connect() as broker:
        broker.restrict([near], interfaces=["tap"])
        broker.add_tap(near, "tap0").close()
        denies(
            lambda: broker.add_veth(near, "eth0", near, "eth1"),
            lambda: broker.add_tap(far, "tap0"),
        )
        broker.restrict(["name:*"], interfaces=["*"])
        denies(lambda: broker.add_veth(near, "eth0", near, "eth1"), lambda: broker.add_tap(far, "tap0"))
        broker.restrict(["name:*"], namespaces=["*"])
        denies(lambda: broker.add_tap(near, "tap0"))


def test_explain_tells_about_interfaces_without_adding_any(daemon: Daemon, ends: tuple[str, str]) -> None:
    allow(daemon, "veth")

    def ask() -> list[tuple[str, bool, str | None]]:
        with connect(daemon.address) as broker:
            explained = broker.explain(ends[0], interfaces=["veth", "tap"])
            assert not explained.allowed
            assert broker.explain(ends[0], interfaces=["veth"]).allowed
            return [(one.name, one.allowed, one.rule) for one in explained.interfaces or ()]

    assert as_user(ALICE, ask) == [("veth", True, f"wires-{ALICE}"), ("tap", False, None)]
    for words in (["bridge"], ["veth", "veth"], []):
        parameters = {"target": {"self": True}, "interfaces": words}
        reply = call(daemon, "io.nsbroker.Broker.Explain", parameters)
        assert reply["error"] == "org.varlink.service.InvalidParameter", words
    assert interfaces(ends[0]) == {}
