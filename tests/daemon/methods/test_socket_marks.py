"""Marks of sockets (SO_MARK): a permission of its own, set inside, without any privilege in the socket that is handed over."""

import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nsbroker.client.blocking import connect
from nsbroker.errors import InvalidParameter, PermissionDenied, SocketFailed
from tests.client.every_client import CLIENTS
from tests.world import ALICE, Daemon, Sleeper, as_user, named_network, run_command

_NETLINK = (socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)


@pytest.fixture
def web() -> Iterator[str]:
    """A named network whose loopback interface is up."""
    name = f"web-{os.getpid()}"
    with named_network(name):
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield name


def mark_of(sock: socket.socket) -> int:
    # Of some families, Python returns only numbers.  The kernel does not care which family Python assumes.
    with socket.socket(socket.AF_UNIX, fileno=os.dup(sock.fileno())) as same:
        return int(struct.unpack("=I", same.getsockopt(socket.SOL_SOCKET, socket.SO_MARK, 4))[0])


def ask_for(daemon: Daemon, target: str, mark: int | None, *kind: int) -> Callable[[], object]:
    """Return a function that opens a socket and returns its mark, or the error."""

    def ask() -> object:
        with connect(daemon.address) as broker:
            try:
                with broker.socket(target, *kind, mark=mark) as sock:
                    return mark_of(sock)
            except (PermissionDenied, InvalidParameter) as error:
                return str(error)

    return ask


@pytest.mark.root
def test_a_mark_takes_a_permission_of_its_own(daemon: Daemon, web: str) -> None:
    target = f"name:{web}"
    daemon.allow("web", who=[f"user:{ALICE}"], targets=["name:web-*"], sockets=["*"], namespaces=["*"], devices=["*"])
    assert as_user(ALICE, ask_for(daemon, target, None)) == 0
    refused = str(as_user(ALICE, ask_for(daemon, target, 0x100)))
    assert "permission denied: no rule of the broker's policy lets you have sockets inet:stream, marks 0x100 there" in refused
    daemon.allow("marks", who=[f"user:{ALICE}"], targets=["name:web-*"], marks=["0x100", "512-0x2ff"])
    for mark in (0x100, 512, 0x234, 0x2FF):
        assert as_user(ALICE, ask_for(daemon, target, mark)) == mark
    for mark in (1, 0xFF, 0x101, 511, 0x300, 0xFFFFFFFF):
        assert "permission denied" in str(as_user(ALICE, ask_for(daemon, target, mark)))


@pytest.mark.root
def test_a_rule_for_marks_alone_gives_no_socket(daemon: Daemon, web: str) -> None:
    daemon.allow("marks", who=[f"user:{ALICE}"], targets=["name:web-*"], marks=["*"])
    for mark in (None, 0x100):
        assert "permission denied" in str(as_user(ALICE, ask_for(daemon, f"name:{web}", mark)))


@pytest.mark.root
def test_every_kind_of_socket_can_be_marked_with_any_mark(daemon: Daemon, web: str) -> None:
    daemon.allow("web", who=[f"user:{ALICE}"], targets=["name:web-*"], sockets=["*"], marks=["*"])
    for kind in (
        (socket.AF_INET, socket.SOCK_STREAM),
        (socket.AF_INET6, socket.SOCK_DGRAM),
        (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        (socket.AF_UNIX, socket.SOCK_STREAM),
        (socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)),
        _NETLINK,
    ):
        for mark in (1, 0x100, 0xFFFFFFFF):
            assert as_user(ALICE, ask_for(daemon, f"name:{web}", mark, *kind)) == mark


@pytest.mark.root
def test_the_marked_socket_carries_no_privilege(daemon: Daemon, web: str) -> None:
    """The receiver can neither change the mark, nor the links through a netlink socket, which remembers who made it."""
    daemon.allow("web", who=[f"user:{ALICE}"], targets=["name:web-*"], sockets=["inet:stream", "netlink:raw"], marks=["0x100"])

    def ask() -> tuple[int, int]:
        with connect(daemon.address) as broker:
            with broker.socket(f"name:{web}", mark=0x100) as sock:
                try:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x200)
                    changed = 0
                except OSError as error:
                    changed = error.errno or -1
            with broker.socket(f"name:{web}", *_NETLINK, mark=0x100) as sock:
                # RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK: interface 1, IFF_UP cleared
                sock.send(struct.pack("=IHHII", 32, 16, 5, 2, 0) + struct.pack("=BxHiII", 0, 0, 1, 0, 1))
                (number,) = struct.unpack_from("=i", sock.recv(65536), 16)
            return changed, -number

    assert as_user(ALICE, ask) == (errno.EPERM, errno.EPERM)
    shown = subprocess.run(["ip", "-n", web, "link", "show", "lo"], capture_output=True, text=True, check=True)
    assert "UP" in shown.stdout


@pytest.mark.root
def test_the_routes_inside_see_the_mark(daemon: Daemon, web: str) -> None:
    subprocess.run(["ip", "-n", web, "rule", "add", "fwmark", "0x100", "prohibit"], check=True)
    daemon.allow("web", who=[f"user:{ALICE}"], targets=["name:web-*"], sockets=["inet:dgram"], marks=["*"])

    def ask() -> list[int]:
        with connect(daemon.address) as broker:
            found = []
            for mark in (None, 0x100, 0x101):
                with broker.socket(f"name:{web}", type=socket.SOCK_DGRAM, mark=mark) as sock:
                    found.append(sock.connect_ex(("192.0.2.1", 9)))
            return found

    assert as_user(ALICE, ask) == [errno.ENETUNREACH, errno.EACCES, errno.ENETUNREACH]


@pytest.mark.root
def test_a_marked_socket_can_be_bound_too(daemon: Daemon, web: str) -> None:
    daemon.allow("web", who=[f"user:{ALICE}"], targets=["name:web-*"], sockets=["inet:stream:80"], marks=["0x100"])

    def ask() -> tuple[int, int]:
        with connect(daemon.address) as broker, broker.socket(f"name:{web}", bind=("127.0.0.1", 80), mark=0x100) as sock:
            return sock.getsockname()[1], mark_of(sock)

    assert as_user(ALICE, ask) == (80, 0x100)


@pytest.mark.root
def test_a_mark_that_only_own_allows_does_not_come_with_the_brokers_rights(daemon: Daemon) -> None:
    """A process that the kernel does not let its own user look into is not `own`, whatever a rule for its name allows besides."""
    code = "import ctypes, time; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); print(end='!', flush=True); time.sleep(600)"
    drop = ["setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups"]
    with subprocess.Popen(["unshare", "--net", *drop, sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        target = f"pid:{process.pid}"
        daemon.allow("sockets", who=[f"user:{ALICE}"], targets=["pid:*"], sockets=["inet:stream"])
        daemon.allow("marks", who=[f"user:{ALICE}"], targets=["own"], marks=["*"])
        assert as_user(ALICE, ask_for(daemon, target, None)) == 0
        assert "permission denied" in str(as_user(ALICE, ask_for(daemon, target, 0x100)))
        process.kill()


def test_root_may_set_any_mark_and_the_record_tells_of_it(daemon: Daemon, sleeper: Sleeper) -> None:
    with daemon.connect() as broker:
        with broker.socket(f"pid:{sleeper.pid}", mark=0xABC) as sock:
            assert mark_of(sock) == 0xABC
        record = [record for record in daemon.records() if record["method"] == "OpenSocket"][-1]
        assert record["wanted"] == "inet:stream mark 0xabc"
        for mark in (0, -1, 2**32):
            with pytest.raises(InvalidParameter, match="mark"):
                broker.socket(f"pid:{sleeper.pid}", mark=mark)


@pytest.mark.root
def test_a_refused_mark_is_in_the_record_too(daemon: Daemon, web: str) -> None:
    daemon.allow("web", who=[f"user:{ALICE}"], targets=["name:web-*"], sockets=["*"])
    as_user(ALICE, ask_for(daemon, f"name:{web}", 0x100))
    record = daemon.records()[-1]
    assert (record["verdict"], record["wanted"]) == ("denied", "inet:stream mark 0x100")


@pytest.mark.root
def test_a_broker_that_may_not_set_marks_says_so_and_keeps_nothing_open(tmp_path: Path, sleeper: Sleeper) -> None:
    without = ["setpriv", "--bounding-set", "-net_raw,-net_admin"]
    with Daemon(tmp_path, prefix=without) as daemon, daemon.connect() as broker:
        broker.who_am_i()
        before = daemon.snapshot()
        for _ in range(5):
            with pytest.raises(SocketFailed, match="the broker itself may not set marks"):
                broker.socket(f"pid:{sleeper.pid}", mark=0x100)
        daemon.settles_at(before)


@pytest.mark.parametrize("client", CLIENTS)
async def test_every_client_asks_for_marks(client: str, daemon: Daemon, sleeper: Sleeper) -> None:
    async with CLIENTS[client](daemon.address) as broker:
        with await broker.socket(f"pid:{sleeper.pid}", socket.AF_INET, socket.SOCK_STREAM, mark=0x100) as sock:
            assert mark_of(sock) == 0x100
        explained = await broker.explain("self", marks=[0x100, 7])
        assert [(verdict.name, verdict.allowed) for verdict in explained.marks or ()] == [("0x100", True), ("0x7", True)]


@pytest.mark.root
def test_explain_tells_marks_from_sockets(daemon: Daemon, web: str) -> None:
    daemon.allow("web", who=[f"user:{ALICE}"], targets=["name:web-*"], sockets=["inet:stream"])
    daemon.allow("marks", who=[f"user:{ALICE}"], targets=["name:web-*"], marks=["0x100"])
    done = run_command(
        "explain", f"name:{web}", "--socket", "inet:stream", "--mark", "0x100", "--mark", "512", uid=ALICE, address=daemon.address
    )
    assert done.returncode == 1
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["inet:stream", "allowed", "web"] in rows
    assert ["mark", "0x100", "allowed", "marks"] in rows
    assert ["mark", "0x200", "denied", "-"] in rows


def test_explain_refuses_what_cannot_be_a_mark(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        for marks in ([0], [2**32], [1, 1], list(range(1, 66)), []):
            with pytest.raises(InvalidParameter):
                broker.explain("self", marks=marks)
    for text in ("0", "x", "0x100000000", "-1"):
        done = run_command("explain", "self", f"--mark={text}", address=daemon.address)
        assert done.returncode == 2
        assert "from 1 to 0xffffffff" in done.stderr


def test_check_config_shows_marks_in_a_column_of_their_own(daemon: Daemon) -> None:
    daemon.allow("marks", who=[f"user:{ALICE}"], targets=["name:web-*"], marks=["0x100", "0x200-0x2ff"])
    lines = run_command("check-config", "--config", str(daemon.config)).stdout.splitlines()
    start = lines[0].index("MARKS")
    row = next(line for line in lines if line.startswith("marks "))
    assert row[start:].startswith("0x100 0x200-0x2ff")
