"""OpenSocket: sockets in a target's network namespace."""

import concurrent.futures
import errno
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import nsbroker
from nsbroker.client.blocking import connect
from nsbroker.errors import InvalidParameter, InvalidType, NoSuchTarget, NotANamespace, PermissionDenied, SocketFailed
from nsbroker.namespace import Namespace
from tests.daemon.test_dispatcher import call
from tests.world import ALICE, NOBODY, PATIENCE, Daemon, Sleeper, as_user, named_network

_SO_NETNS_COOKIE = 71
MATRIX = [
    ("inet:stream", socket.AF_INET, socket.SOCK_STREAM, 0),
    ("inet:dgram", socket.AF_INET, socket.SOCK_DGRAM, 0),
    ("inet:raw", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    ("inet6:stream", socket.AF_INET6, socket.SOCK_STREAM, 0),
    ("inet6:dgram", socket.AF_INET6, socket.SOCK_DGRAM, 0),
    ("inet6:raw", socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
    ("unix:stream", socket.AF_UNIX, socket.SOCK_STREAM, 0),
    ("unix:dgram", socket.AF_UNIX, socket.SOCK_DGRAM, 0),
    ("unix:seqpacket", socket.AF_UNIX, socket.SOCK_SEQPACKET, 0),
    ("netlink:raw", socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE),
    ("netlink:dgram", socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE),
    ("packet:raw", socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)),
    ("packet:dgram", socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)),
    ("vsock:stream", socket.AF_VSOCK, socket.SOCK_STREAM, 0),
]


def netns_cookie(sock: socket.socket) -> bytes:
    """Return the kernel's cookie of the network namespace that a socket is in."""
    # Python returns only numbers for options of some families.  The kernel does not care which family Python assumes.
    with socket.socket(socket.AF_UNIX, fileno=os.dup(sock.fileno())) as same:
        return same.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)


def has_vsock() -> bool:
    try:
        socket.socket(socket.AF_VSOCK).close()
    except OSError:
        return False
    return True


def cookie_of(ns: Namespace) -> bytes:
    with ns.call(socket.socket, socket.AF_UNIX) as sock:
        return netns_cookie(sock)


@pytest.fixture
def web() -> Iterator[str]:
    """A named network whose loopback interface is up."""
    name = f"web-{os.getpid()}"
    with named_network(name):
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield name


def test_sockets_of_every_kind_are_inside(daemon: Daemon, sleeper: Sleeper) -> None:
    for row in MATRIX:
        check_inside(daemon, sleeper, *row)


def check_inside(daemon: Daemon, sleeper: Sleeper, kind: str, family: int, type: int, protocol: int) -> None:
    with daemon.connect() as broker, Namespace.from_pid(sleeper.pid, "net") as ns:
        if kind == "vsock:stream" and not has_vsock():
            with pytest.raises(SocketFailed, match="no sockets of that family"):
                broker.socket(f"pid:{sleeper.pid}", family, type, protocol)
            return
        with broker.socket(f"pid:{sleeper.pid}", family, type, protocol) as sock:
            assert (sock.family, sock.type) == (family, type)
            assert netns_cookie(sock) == cookie_of(ns)
            assert not sock.get_inheritable()
        record = [record for record in daemon.records() if record["method"] == "OpenSocket"][-1]
        assert (record["wanted"], record["namespaces"]) == (kind, str(ns))


@pytest.mark.root
def test_each_kind_needs_its_own_permission(daemon: Daemon, web: str) -> None:
    """A rule for all other kinds does not allow it, a rule for this kind does, and the refusal names what is missing."""
    for row in MATRIX:
        check_permission(daemon, web, *row)


def check_permission(daemon: Daemon, web: str, kind: str, family: int, type: int, protocol: int) -> None:
    others = [row[0] for row in MATRIX if row[0] != kind]

    def ask() -> str:
        with connect(daemon.address) as broker:
            try:
                broker.socket(f"name:{web}", family, type, protocol).close()
            except PermissionDenied as error:
                return str(error)
        return "made"

    daemon.allow("web", who=[f"user:{ALICE}"], targets=["name:web-*"], namespaces=["*"], sockets=others, devices=["null"])
    assert f"no rule of the broker's policy lets you have sockets {kind} there" in as_user(ALICE, ask)
    daemon.allow("web", who=[f"user:{ALICE}"], targets=["name:web-*"], sockets=[kind])
    assert as_user(ALICE, ask) == "made"


@pytest.mark.root
def test_an_unprivileged_user_connects_to_a_server_on_the_loopback_inside(daemon: Daemon, web: str) -> None:
    daemon.allow("web", who=[f"user:{NOBODY}"], targets=["name:web-*"], sockets=["inet:stream"])
    with Namespace.from_name(web) as ns, ns.call(socket.create_server, ("127.0.0.1", 8080)) as server:

        def talk() -> bytes:
            with connect(daemon.address) as broker, broker.create_connection(f"name:{web}", ("127.0.0.1", 8080), PATIENCE) as sock:
                return sock.recv(100)

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.send(b"from inside")

        thread = threading.Thread(target=serve)
        thread.start()
        assert as_user(NOBODY, talk) == b"from inside"
        thread.join()


@pytest.mark.root
def test_a_name_with_two_addresses_is_tried_on_both(daemon: Daemon, web: str) -> None:
    """localhost is ::1 first, which no rule allows, and then 127.0.0.1.  If nobody listens there, that is the error."""
    daemon.allow("web", who=[f"user:{ALICE}"], targets=["name:web-*"], sockets=["inet:stream"])

    def talk(port: int) -> Callable[[], str]:
        def ask() -> str:
            with connect(daemon.address) as broker:
                try:
                    with broker.create_connection(f"name:{web}", ("localhost", port), PATIENCE) as sock:
                        return str(sock.getpeername()[0])
                except ConnectionRefusedError:
                    return "refused"

        return ask

    with Namespace.from_name(web) as ns, ns.call(socket.create_server, ("127.0.0.1", 8080)):
        assert as_user(ALICE, talk(8080)) == "127.0.0.1"
        assert as_user(ALICE, talk(8081)) == "refused"


@pytest.mark.root
def test_binding_to_a_low_port_needs_a_permission_of_its_own(daemon: Daemon, web: str) -> None:
    def bind(port: int, type: int = socket.SOCK_STREAM) -> Callable[[], object]:
        def ask() -> object:
            with connect(daemon.address) as broker:
                try:
                    with broker.socket(f"name:{web}", type=type, bind=("127.0.0.1", port)) as sock:
                        return sock.getsockname()[1]
                except PermissionDenied as error:
                    return str(error)

        return ask

    daemon.allow("web", who=[f"user:{ALICE}"], targets=["name:web-*"], sockets=["inet:stream"])
    assert as_user(ALICE, bind(8080)) == 8080
    assert "lets you have sockets inet:stream:80 there" in str(as_user(ALICE, bind(80)))
    daemon.allow("web", who=[f"user:{ALICE}"], targets=["name:web-*"], sockets=["inet:stream:80"])
    assert as_user(ALICE, bind(80)) == 80
    for refused in (bind(81), bind(80, socket.SOCK_DGRAM), bind(8080)):
        assert "permission denied" in str(as_user(ALICE, refused))


@pytest.mark.parametrize(
    ("bind", "parameter"),
    [
        (("localhost", 80), "bind.address"), (("", 80), "bind.address"), (("::1", 80), "bind.address"),
        (("127.0.0.1", 0), "bind.port"), (("127.0.0.1", 65536), "bind.port"), (("127.0.0.1", -1), "bind.port"),
    ],
)  # fmt: skip
def test_an_invalid_address_to_bind_is_a_bad_parameter(
    daemon: Daemon, sleeper: Sleeper, bind: tuple[str, int], parameter: str
) -> None:
    with daemon.connect() as broker, pytest.raises(InvalidParameter) as caught:
        broker.socket(f"pid:{sleeper.pid}", bind=bind)
    assert caught.value.parameter == parameter


def test_errors_of_the_kernel_give_the_reason(daemon: Daemon, sleeper: Sleeper) -> None:
    target = f"pid:{sleeper.pid}"
    with daemon.connect() as broker:
        for family, kind, protocol, reason in (
            (socket.AF_INET, socket.SOCK_SEQPACKET, 0, "no sockets of that type"),
            (socket.AF_INET, socket.SOCK_STREAM, 250, "no such protocol"),
            (socket.AF_NETLINK, socket.SOCK_STREAM, 0, "no sockets of that type"),
        ):
            with pytest.raises(SocketFailed, match=reason):
                broker.socket(target, family, kind, protocol)
        with pytest.raises(SocketFailed, match="no interface inside"):
            broker.socket(target, socket.AF_INET6, bind=("2001:db8::1", 8080))
        with broker.socket(target, bind=("0.0.0.0", 8080)) as taken:
            taken.listen()
            with pytest.raises(SocketFailed, match="something else is bound"):
                broker.socket(target, bind=("0.0.0.0", 8080))
        with pytest.raises(InvalidType, match="families are inet, inet6"):
            broker.socket(target, 9999)


@pytest.mark.parametrize(
    ("parameters", "parameter"),
    [
        ({"family": "inet7", "type": "stream"}, "family"), ({"family": "inet", "type": "strem"}, "type"),
        ({"family": "inet"}, "type"), ({"family": 2, "type": "stream"}, "family"),
        ({"family": "inet", "type": "stream", "protocol": -1}, "protocol"),
        ({"family": "inet", "type": "stream", "protocol": 2**31}, "protocol"),
        ({"family": "unix", "type": "stream", "bind": {"address": "127.0.0.1", "port": 80}}, "bind.address"),
        ({"family": "inet", "type": "raw", "bind": {"address": "127.0.0.1", "port": 80}}, "bind.address"),
        ({"family": "inet", "type": "stream", "bind": {"address": "127.0.0.1"}}, "bind.port"),
        ({"family": "inet", "type": "stream", "mark": 0}, "mark"),
        ({"family": "inet", "type": "stream", "mark": 2**32}, "mark"),
        ({"family": "inet", "type": "stream", "mark": "0x100"}, "mark"),
        ({"family": "inet", "type": "stream", "backlog": 1}, "backlog"),
    ],
)  # fmt: skip
def test_a_bad_request_names_the_parameter(daemon: Daemon, parameters: dict[str, object], parameter: str) -> None:
    reply = call(daemon, "io.nsbroker.Broker.OpenSocket", {"target": {"self": True}, **parameters})
    assert reply["error"] == "org.varlink.service.InvalidParameter"
    assert reply["parameters"]["parameter"] == parameter


def test_a_target_in_the_hosts_network_is_refused_with_the_reason(daemon: Daemon) -> None:
    with (
        Sleeper(unshare="--uts") as other,
        daemon.connect() as broker,
        pytest.raises(NoSuchTarget, match="no network namespace of its own"),
    ):
        broker.socket(f"pid:{other.pid}")


@pytest.mark.root
@pytest.mark.parametrize("sockets", ["own", "name:lab-*"])
def test_who_holds_the_hosts_network_under_a_name_gets_no_socket_in_it(daemon: Daemon, sockets: str) -> None:
    """A user decides what a name of theirs stands for, so no rule for such names was meant for the host's network."""
    daemon.allow("names", who=[f"user:{ALICE}"], targets=["name:lab-*"], hold=["net"])
    daemon.allow("sockets", who=[f"user:{ALICE}"], targets=[sockets], sockets=["packet:raw"])

    def ask() -> str:
        with connect(daemon.address) as broker:
            broker.hold("self", "lab-host", ["net"])
            try:
                broker.socket("name:lab-host", socket.AF_PACKET, socket.SOCK_RAW).close()
            except NoSuchTarget as error:
                return str(error)
            return "made"

    assert "it is the host's network: connect directly" in as_user(ALICE, ask)
    with daemon.connect() as broker:
        # What root holds under a name, root means.
        broker.hold("self", "uplink", ["net"])
        broker.socket("name:uplink").close()


def test_a_namespace_that_is_no_network_has_no_sockets(daemon: Daemon, sleeper: Sleeper) -> None:
    with daemon.connect() as broker, pytest.raises(NotANamespace, match="it has no net"):
        broker.socket(f"uts:[{sleeper.inode('uts')}]")


@pytest.mark.root
def test_refusals_are_identical_whether_or_not_the_target_exists(daemon: Daemon, sleeper: Sleeper) -> None:
    def ask() -> list[dict[str, object]]:
        wanted = {"family": "inet", "type": "stream"}
        return [
            call(daemon, "io.nsbroker.Broker.OpenSocket", {"target": target, **wanted})
            for target in ({"pid": sleeper.pid}, {"pid": 2**31 - 1}, {"name": "missing"}, {"container": "missing"})
        ]

    assert as_user(ALICE, ask) == [{"error": "org.varlink.service.PermissionDenied", "parameters": {}}] * 4


@pytest.mark.root
def test_a_netlink_socket_can_read_links_but_not_change_them(daemon: Daemon, web: str) -> None:
    daemon.allow("web", who=[f"user:{ALICE}"], targets=["name:web-*"], sockets=["netlink:raw"])

    def ask() -> tuple[bool, int]:
        with connect(daemon.address) as broker:
            with broker.socket(f"name:{web}", socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
                # RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP
                sock.send(struct.pack("=IHHII", 32, 18, 0x301, 1, 0) + bytes(16))
                links = sock.recv(65536)
            with broker.socket(f"name:{web}", socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
                # RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK: interface 1, IFF_UP cleared
                sock.send(struct.pack("=IHHII", 32, 16, 5, 2, 0) + struct.pack("=BxHiII", 0, 0, 1, 0, 1))
                (number,) = struct.unpack_from("=i", sock.recv(65536), 16)
            return b"lo\0" in links, -number

    assert as_user(ALICE, ask) == (True, errno.EPERM)
    shown = subprocess.run(["ip", "-n", web, "link", "show", "lo"], capture_output=True, text=True, check=True)
    assert "UP" in shown.stdout


@pytest.mark.root
def test_abstract_names_belong_to_the_network_inside(daemon: Daemon, web: str) -> None:
    daemon.allow("web", who=[f"user:{ALICE}"], targets=["name:web-*"], sockets=["unix:stream"])
    name = f"\0inside-{os.getpid()}"

    def listen() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(name)
        sock.listen()
        return sock

    def talk() -> tuple[bool, bool]:
        with (
            socket.socket(socket.AF_UNIX) as here,
            connect(daemon.address) as broker,
            broker.socket(f"name:{web}", socket.AF_UNIX) as inside,
        ):
            return here.connect_ex(name) == 0, inside.connect_ex(name) == 0

    with Namespace.from_name(web) as ns, ns.call(listen):
        assert as_user(ALICE, talk) == (False, True)


@pytest.mark.root
def test_ten_thousand_sockets_are_each_where_they_should_be(daemon: Daemon) -> None:
    """20 clients at once use 50 namespaces.  Afterwards every thread of the daemon is in the daemon's own namespaces."""
    namespaces = [Namespace.create("net") for _ in range(50)]
    wanted = [(f"net:[{ns.inode}]", cookie_of(ns)) for ns in namespaces]
    sleepers = [subprocess.Popen(["sleep", "100"], preexec_fn=ns.set) for ns in namespaces]
    targets = [(f"pid:{sleeper.pid}", cookie) for sleeper, (_, cookie) in zip(sleepers, wanted, strict=True)]
    before = daemon.snapshot()

    def ask(client: int) -> int:
        wrong = 0
        with daemon.connect() as broker:
            for number in range(500):
                target, cookie = targets[(client * 7 + number) % len(targets)]
                with broker.socket(target, socket.AF_UNIX) as sock:
                    wrong += netns_cookie(sock) != cookie
        return wrong

    with concurrent.futures.ThreadPoolExecutor(20) as clients:
        assert sum(clients.map(ask, range(20))) == 0
    daemon.settles_at(before)
    for sleeper in sleepers:
        sleeper.kill()
        sleeper.wait()
    for ns in namespaces:
        ns.close()


async def test_the_trio_and_asyncio_clients_return_their_own_kinds_of_sockets(daemon: Daemon, sleeper: Sleeper) -> None:
    import asyncio

    import trio

    import nsbroker.client.asyncio
    import nsbroker.client.trio

    target = f"pid:{sleeper.pid}"
    with Namespace.from_pid(sleeper.pid, "net") as ns:
        cookie = cookie_of(ns)
        subprocess.run(["nsenter", f"--net=/proc/{sleeper.pid}/ns/net", "ip", "link", "set", "lo", "up"], check=True)
        with ns.call(socket.create_server, ("127.0.0.1", 8080)) as server:
            async with nsbroker.client.trio.connect(daemon.address) as broker:
                with await broker.socket(target) as trios:
                    assert isinstance(trios, trio.socket.SocketType)
                    assert trios.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8) == cookie
                async with await broker.create_connection(target, ("127.0.0.1", 8080)) as stream:
                    peer, _ = server.accept()
                    with peer:
                        peer.send(b"hello")
                    assert await stream.receive_some() == b"hello"
                with pytest.raises(ConnectionRefusedError):
                    await broker.create_connection(target, ("127.0.0.1", 8081))

            async def on_asyncio() -> None:
                async with nsbroker.client.asyncio.connect(daemon.address) as broker:
                    with await broker.socket(target) as sock:
                        assert sock.gettimeout() == 0.0
                        assert netns_cookie(sock) == cookie
                    reader, writer = await broker.create_connection(target, ("127.0.0.1", 8080))
                    peer, _ = server.accept()
                    with peer:
                        peer.send(b"hello")
                    assert await reader.read() == b"hello"
                    writer.close()
                    await writer.wait_closed()
                    with pytest.raises(ConnectionRefusedError):
                        await broker.create_connection(target, ("127.0.0.1", 8081))

            # pytest-trio runs the tests, so asyncio runs on a thread.
            await trio.to_thread.run_sync(asyncio.run, on_asyncio())


def test_a_held_network_has_sockets_too(daemon: Daemon, tmp_path: Path) -> None:
    with daemon.connect() as broker:
        with (
            broker.create(["net"], name="lab").namespaces[nsbroker.NamespaceType.NET] as ns,
            broker.socket("name:lab", socket.AF_UNIX) as sock,
        ):
            assert netns_cookie(sock) == cookie_of(ns)
        broker.release("lab")
