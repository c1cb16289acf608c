"""Attacks of a program that was given a restricted connection, and wants more than is left."""

import os
import socket
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nsbroker.errors import NsbrokerError
from nsbroker.linux import ancillary, descriptors
from nsbroker.linux.features import features
from nsbroker.model.identity import NamespaceType
from tests.world import ALICE, NOBODY, Daemon, Sleeper, as_user

_BROKER = "io.nsbroker.Broker"

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not features().peer_pidfd, reason="before Linux 6.5 no peer is proved to be root, who has most to give up"),
]


def read_reply(sock: socket.socket) -> dict[str, Any]:
    data, fds = ancillary.receive_piece(sock, bytearray(70000), b"\0")
    descriptors.close_all(fds)
    reply: dict[str, Any] = msgspec.json.decode(data.rstrip(b"\0"))
    return reply


def read_replies(sock: socket.socket, count: int) -> list[dict[str, Any]]:
    data = b""
    while data.count(b"\0") < count:
        data += sock.recv(65536)
    return [msgspec.json.decode(one) for one in data.split(b"\0")[:-1]]


def _call(method: str, parameters: dict[str, Any], **flags: bool) -> bytes:
    return msgspec.json.encode({"method": f"{_BROKER}.{method}", "parameters": parameters, **flags}) + b"\0"


def _everything(pid: int, inode: int) -> list[bytes]:
    """Calls of all methods for all kinds of targets, in all the ways in which something could be got."""
    types = list(NamespaceType)
    targets: list[dict[str, object]] = [
        {"pid": pid}, {"pid": 1}, {"pid": os.getpid()}, {"tid": pid, "pid": pid}, {"self": True}, {"name": "blue"}, {"name": "lab"},
        {"container": "web"}, {"unit": "init.scope"}, {"namespace": f"net:[{inode}]"}, {"path": "/run/netns/blue"},
    ]  # fmt: skip
    calls = []
    for target in targets:
        calls += [_call("Open", {"target": target}), *(_call("Open", {"target": target, "types": [one]}) for one in types)]
        calls += [_call("Open", {"target": target, "types": ["net"], "expect": {"inode": inode, "startTime": 1}})]
        calls += [
            _call("OpenSocket", {"target": target, "family": family, "type": kind})
            for family in ("inet", "packet", "netlink")
            for kind in ("stream", "raw", "dgram")
        ]
        calls += [_call("OpenFile", {"target": target, "name": name}) for name in ("resolv.conf", "net/tcp")]
        calls += [_call("ListDevices", {"target": target}), _call("List", {"target": target}, more=True)]
        calls += [_call("OpenDevice", {"target": target, "name": name, "access": "read"}) for name in ("null", "kvm")]
        calls += [_call("Hold", {"target": target, "types": ["net"], "name": name}) for name in ("lab", "mine")]
    calls += [_call("Create", {"types": ["net"]}), _call("Create", {"types": ["net"], "name": "mine"})]
    calls += [_call("Release", {"name": "lab"}), _call("Release", {"name": "mine"})]
    return calls


_DENIED = b'{"parameters":{},"error":"org.varlink.service.PermissionDenied"}\0'
_WORDS = {"sockets": ["*"], "devices": ["*"], "create": list(NamespaceType), "hold": list(NamespaceType)}
_ALL = {"targets": ["*", "own", "self"], "namespaces": list(NamespaceType), **_WORDS}
_WIDENING = [
    _call("Restrict", _ALL),
    _call("Restrict", _ALL, oneway=True),
    _call("Restrict", {**_ALL, "targets": ["*"] * 40}),
    _call("Restrict", {**_ALL, "targets": ["x" * 2000]}),
    _call("Restrict", {"targets": None}),
    _call("Restrict", _ALL, upgrade=True),
]


def _tried(sock: socket.socket, calls: list[bytes]) -> list[str]:
    """Make the calls, and return those that were not refused in the one way in which everything is."""
    got = []
    for call in calls:
        sock.sendall(call)
        data, fds = ancillary.receive_piece(sock, bytearray(70000), b"\0")
        if fds or data != _DENIED:
            got.append(f"{call!r}: {data!r}")
    return got


def _listed(sock: socket.socket) -> list[str]:
    """Return what the methods list that need no target."""
    got = []
    for method in ("List", "ListHeld", "ListContainers"):
        sock.sendall(_call(method, {}, more=True))
        if (reply := read_reply(sock)) != {"parameters": {}}:
            got.append(f"{method}: {reply}")
    sock.sendall(_call("GetStatus", {}))
    status = msgspec.json.encode(read_reply(sock))
    return [*got, *([status.decode()] if b'"connections"' in status else [])]


def test_a_restricted_connection_gets_nothing_more_whatever_it_tries(daemon: Daemon, sleeper: Sleeper, blue: Path) -> None:
    """Root restricts a connection to one name, and a user who has no rights of its own makes every call on it."""
    assert blue.exists()
    with daemon.connect() as free:
        for ns in free.create(["net"], name="lab").namespaces.values():
            ns.close()
        with daemon.raw() as sock:
            sock.sendall(_call("Restrict", {"targets": ["name:red"], "namespaces": ["net"], "sockets": ["inet:stream"]}))
            assert read_reply(sock) == {"parameters": {}}

            everything = _everything(sleeper.pid, sleeper.inode("net"))

            def attack() -> list[str]:
                for widening in _WIDENING:
                    sock.sendall(widening)
                    if b"oneway" not in widening:
                        read_reply(sock)
                return [*_tried(sock, everything), *_listed(sock)]

            assert as_user(NOBODY, attack) == []
        assert [one.name for one in free.held()] == ["lab"]
        free.open(f"pid:{sleeper.pid}", "net").close()
        free.release("lab")


def test_the_time_of_a_refusal_to_a_restricted_root_reveals_nothing(daemon: Daemon, sleeper: Sleeper) -> None:
    """Root is told at once.  A connection that root has restricted is for others, and its refusals come on ticks."""
    with daemon.connect() as broker:
        broker.restrict(["name:red"], namespaces=["net"])
        shortest = {}
        for target in (f"pid:{sleeper.pid}", "pid:2147483646", "name:blue"):
            spent = []
            for _ in range(5):
                start = time.monotonic()
                with pytest.raises(NsbrokerError):
                    broker.open(target, "net")
                spent.append(time.monotonic() - start)
            shortest[target] = min(spent)
    assert all(one > 0.009 for one in shortest.values()), shortest


def test_restrictions_without_end_keep_nobody_waiting_and_take_no_memory(daemon: Daemon) -> None:
    """The largest restrictions that are taken, on as many connections as one user may have."""
    patterns = [f"path:/{'a*' * 15}", f"path:/{'b*' * 15}"]
    largest = _call("Restrict", {"targets": [*patterns, "name:" + "x" * 250], "namespaces": ["net"]})

    def attack() -> list[object]:
        socks = []
        for number in range(100):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(daemon.socket))
            socks.append(sock)
            for again in range(6):
                sock.sendall(largest.replace(b"x" * 250, b"%03d%04d" % (again, number) + b"x" * 240))
        replies = [reply for sock in socks for reply in read_replies(sock, 6)]
        for sock in socks:
            sock.close()
        return [reply.get("error") for reply in replies]

    before, memory = daemon.snapshot(), daemon.memory()
    replies = as_user(ALICE, attack)
    assert replies == ([None] * 4 + [f"{_BROKER}.QuotaExceeded"] * 2) * 100
    daemon.settles_at(before)
    assert daemon.memory() - memory < 64 * 1024 * 1024
    with daemon.raw() as sock:
        sock.sendall(_call("WhoAmI", {}))
        assert "error" not in read_reply(sock)
