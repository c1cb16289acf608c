"""All clients behave in the same way, with a real daemon."""

import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import nsbroker
import nsbroker.client.asyncio
import nsbroker.client.trio
from nsbroker.errors import (
    ConnectionFailed,
    InvalidAddress,
    InvalidParameter,
    InvalidTarget,
    InvalidType,
    NoSuchTarget,
    PermissionDenied,
    TargetChanged,
)
from nsbroker.model.identity import Expectation, NamespaceType
from nsbroker.namespace import Namespace
from tests.client.every_client import CLIENTS, Connect, impostor, read_call
from tests.world import ALICE, PATIENCE, Daemon, Sleeper, as_user, eventually


@pytest.fixture(params=CLIENTS)
def connect(request: pytest.FixtureRequest) -> Connect:
    return CLIENTS[request.param]


async def test_open_and_open_all(connect: Connect, daemon: Daemon, sleeper: Sleeper) -> None:
    async with connect(daemon.address) as broker:
        with await broker.open(f"pid:{sleeper.pid}", "net") as ns:
            assert isinstance(ns, Namespace)
            assert ns.inode == sleeper.inode("net")
        namespaces = await broker.open_all(f"pid:{sleeper.pid}", ["net", "uts"])
        assert {str(name): ns.inode for name, ns in namespaces.items()} == {name: sleeper.inode(name) for name in ("net", "uts")}
        for ns in namespaces.values():
            ns.close()


async def test_a_parsed_target_and_a_pidfd_work_too(connect: Connect, daemon: Daemon, sleeper: Sleeper) -> None:
    pidfd = os.pidfd_open(sleeper.pid)
    async with connect(daemon.address) as broker:
        for target in (nsbroker.Target.process(sleeper.pid), nsbroker.Target.pidfd(pidfd)):
            with await broker.open(target, "net") as ns:
                assert ns.inode == sleeper.inode("net")
    os.close(pidfd)


async def test_a_target_that_is_not_what_was_expected_is_refused(connect: Connect, daemon: Daemon, sleeper: Sleeper) -> None:
    with nsbroker.Namespace.from_pid(sleeper.pid, "net") as ns:
        good = Expectation(NamespaceType.NET, ns.device, ns.inode, start_time(sleeper.pid))
    bad = [
        (replace(good, inode=5), "inode"), (replace(good, device=1), "device"), (replace(good, start_time=7), "started at"),
        (replace(good, type=None, inode=5), "inode"),
    ]  # fmt: skip
    async with connect(daemon.address) as broker:
        (await broker.open(f"pid:{sleeper.pid}", "net", expect=good)).close()
        for ns in (await broker.open_all(f"pid:{sleeper.pid}", ["net", "uts"], expect=good)).values():
            ns.close()
        for expect, says in bad:
            with pytest.raises(TargetChanged, match=says):
                await broker.open(f"pid:{sleeper.pid}", "net", expect=expect)
        with pytest.raises(InvalidParameter, match="expect"):
            await broker.open(f"pid:{sleeper.pid}", "uts", expect=good)
        with pytest.raises(InvalidParameter, match="expect"):
            await broker.open_all(f"pid:{sleeper.pid}", ["net", "uts"], expect=replace(good, type=None))
        with pytest.raises(TargetChanged, match="is no process"):
            await broker.open(f"net:[{good.inode}]", "net", expect=good)


def start_time(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


async def test_the_other_methods(connect: Connect, daemon: Daemon) -> None:
    async with connect(daemon.address) as broker:
        assert (await broker.who_am_i()).pid == os.getpid()
        assert (await broker.explain("self", ["net"])).allowed
        explained = await broker.explain("self", ["net"], who=["user:4001"])
        fits = [(rule.rule, rule.who, rule.target) for rule in explained.rules or ()]
        assert fits == [("own", True, True), ("root", False, True)]
        assert (await broker.status()).connections == 1


async def test_an_error_of_the_broker_leaves_the_connection_in_use(connect: Connect, daemon: Daemon) -> None:
    async with connect(daemon.address) as broker:
        with pytest.raises(NoSuchTarget):
            await broker.open("name:green", "net")
        await broker.who_am_i()


async def test_bad_input_is_refused_before_anything_is_sent(connect: Connect, daemon: Daemon) -> None:
    async with connect(daemon.address) as broker:
        with pytest.raises(InvalidTarget):
            await broker.open("green", "net")
        with pytest.raises(InvalidType):
            await broker.open("self", "network")
        assert (await broker.status()).calls == 1


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda broker: broker.open(4711, "net"), InvalidTarget, "a target is text such as 'pid:4711', or a Target"),
        (lambda broker: broker.list(target=b"self"), InvalidTarget, "a target is text"),
        (lambda broker: broker.open("self", 7), InvalidType, "'7' is no namespace type"),
        (lambda broker: broker.open("self", ["net"]), InvalidType, "is no namespace type"),
        (lambda broker: broker.open_all("self", "net"), InvalidType, "'net' is text where a list is expected: write ..net.."),
        (lambda broker: broker.list("net"), InvalidType, "text where a list"),
        (lambda broker: broker.create("net"), InvalidType, "text where a list"),
        (lambda broker: broker.hold("self", "x", "net"), InvalidType, "text where a list"),
        (lambda broker: broker.explain("self", "net"), InvalidType, "text where a list"),
        (lambda broker: broker.explain("self", sockets="inet:stream"), InvalidType, "text where a list"),
        (lambda broker: broker.explain("self", devices="null"), InvalidType, "text where a list"),
        (lambda broker: broker.explain("self", files="hosts"), InvalidType, "text where a list"),
        (lambda broker: broker.explain("self", who="user:bob"), InvalidType, "text where a list"),
        (lambda broker: broker.file(4711, "hosts"), InvalidTarget, "a target is text"),
        (lambda broker: broker.release("\udcff"), InvalidTarget, "not UTF-8"),
    ],
)
async def test_a_wrong_argument_is_refused_with_the_right_spelling(
    connect: Connect, ask: Any, error: type[Exception], says: str
) -> None:
    with impostor(lambda sock: None) as address:
        async with connect(address) as broker:
            with pytest.raises(error, match=says):
                await ask(broker)


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda broker: broker.create(["net", "uts"]), "create net, uts: permission"),
        (lambda broker: broker.create(["net"], name="lab"), "create net as name:lab: permission"),
        (lambda broker: broker.hold("docker:web", "lab", ["net"]), "hold net of docker:web as name:lab: permission"),
        (lambda broker: broker.hold("docker:web", "lab"), "hold the namespaces of docker:web as name:lab: permission"),
        (lambda broker: broker.release("lab"), "release name:lab: permission"),
        (lambda broker: broker.open("docker:web", "net"), "open net of docker:web: permission"),
        (lambda broker: broker.open_all("docker:web"), "open docker:web: permission"),
        (lambda broker: broker.file("docker:web", "hosts"), "open the file hosts of docker:web: permission"),
        (lambda broker: broker.list(), "list namespaces: permission"),
    ],
)
async def test_an_error_says_what_was_tried_as_people_would_say_it(connect: Connect, ask: Any, says: str) -> None:
    def refuse(sock: socket.socket) -> None:
        while read_call(sock):
            sock.sendall(b'{"error":"org.varlink.service.PermissionDenied"}\0')

    with impostor(refuse) as address:
        async with connect(address) as broker:
            with pytest.raises(PermissionDenied) as refused:
                await ask(broker)
    assert str(refused.value).startswith(says)


async def test_a_closed_pidfd_is_a_plain_error(connect: Connect, daemon: Daemon) -> None:
    async with connect(daemon.address) as broker:
        pidfd = os.pidfd_open(os.getpid())
        os.close(pidfd)
        with pytest.raises(InvalidTarget, match=f"the pidfd {pidfd} is not open"):
            await broker.open(nsbroker.Target.pidfd(pidfd), "net")


@pytest.mark.parametrize(
    ("address", "error", "says"),
    [
        ("unix:/run/nowhere/socket", ConnectionFailed, "is the daemon running"),
        ("unix:relative", InvalidAddress, "unix:/ABSOLUTE/PATH"),
        ("tcp:127.0.0.1", InvalidAddress, "unix:/ABSOLUTE/PATH"),
        ("unix:/" + "x" * 200, InvalidAddress, "107 bytes"),
        ("unix:@abstract", InvalidAddress, "ABSOLUTE"),
    ],
)
async def test_no_broker_at_the_address(connect: Connect, address: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        async with connect(address):
            pass


async def test_a_socket_without_a_listener_is_a_failed_connection(connect: Connect) -> None:
    path = Path(f"/run/dead-{os.getpid()}")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    with pytest.raises(ConnectionFailed, match="is the daemon running"):
        async with connect(f"unix:{path}"):
            pass
    path.unlink()


async def test_the_address_of_the_environment_is_used(connect: Connect, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSBROKER_ADDRESS", daemon.address)
    async with connect(None) as broker:
        await broker.who_am_i()


async def test_a_connection_that_ended_between_two_calls_is_replaced(daemon: Daemon) -> None:
    async with nsbroker.client.trio.connect(daemon.address) as one:
        with daemon.connect() as other:
            for stop in (signal.SIGTERM, signal.SIGKILL):
                assert (await one.who_am_i()).pid == other.who_am_i().pid
                daemon.stop(stop)
                with pytest.raises(ConnectionFailed):
                    other.who_am_i()
                daemon.start()


def test_no_call_is_lost_while_the_broker_is_stopped_and_started_again(daemon: Daemon, sleeper: Sleeper) -> None:
    lost: list[Exception] = []
    succeeded = [0]
    done = threading.Event()
    # A client whose first connection finds no daemon fails at once, as it should.
    connected = threading.Barrier(9)

    def ask() -> None:
        with daemon.connect() as broker:
            connected.wait(PATIENCE)
            while not done.is_set():
                try:
                    with broker.open(f"pid:{sleeper.pid}", "net") as ns:
                        assert ns.inode == sleeper.inode("net")
                    succeeded[0] += 1
                except ConnectionFailed:
                    # Without a service manager that keeps the socket, nobody listens between two daemons.
                    time.sleep(0.002)
                except Exception as error:
                    lost.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        connected.wait(PATIENCE)
        for stops in range(5):
            eventually(lambda: succeeded[0] > 20 * stops or bool(lost), "calls succeed")  # noqa: B023 - called at once
            daemon.stop()
            daemon.start()
        eventually(lambda: succeeded[0] > 100 or bool(lost), "calls succeed")
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert lost == []


@pytest.mark.root
def test_a_socket_that_this_user_may_not_connect_to(daemon: Daemon) -> None:
    daemon.socket.chmod(0o600)

    def ask() -> None:
        with pytest.raises(ConnectionFailed, match="not open to you"):
            nsbroker.connect(daemon.address)

    as_user(ALICE, ask)
