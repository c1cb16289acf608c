"""The fronts: each the same to its user, on the same daemon."""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import nsbroker
import nsbroker.client.asyncio
import nsbroker.client.trio
from nsbroker.errors import (
    ConnectionFailed,
    ConnectionLost,
    InvalidAddress,
    InvalidParameter,
    InvalidTarget,
    InvalidType,
    NoSuchTarget,
    TargetChanged,
    Timeout,
)
from nsbroker.model.identity import Expectation, NamespaceType
from nsbroker.namespace import Namespace
from tests.client.every_client import FRONTS, Front, impostor
from tests.world import ALICE, Daemon, Sleeper, as_user


@pytest.fixture(params=FRONTS)
def connect(request: pytest.FixtureRequest) -> Front:
    return FRONTS[request.param]


async def test_open_and_open_all(connect: Front, daemon: Daemon, sleeper: Sleeper) -> None:
    async with connect(daemon.address) as broker:
        with await broker.open(f"pid:{sleeper.pid}", "net") as space:
            assert isinstance(space, Namespace)
            assert space.inode == sleeper.inode("net")
        spaces = await broker.open_all(f"pid:{sleeper.pid}", ["net", "uts"])
        assert {str(kind): space.inode for kind, space in spaces.items()} == {kind: sleeper.inode(kind) for kind in ("net", "uts")}
        for space in spaces.values():
            space.close()


async def test_a_parsed_target_and_a_pidfd_do_as_well(connect: Front, daemon: Daemon, sleeper: Sleeper) -> None:
    pidfd = os.pidfd_open(sleeper.pid)
    async with connect(daemon.address) as broker:
        for target in (nsbroker.Target.process(sleeper.pid), nsbroker.Target.pidfd(pidfd)):
            with await broker.open(target, "net") as space:
                assert space.inode == sleeper.inode("net")
    os.close(pidfd)


async def test_a_target_that_is_not_what_was_expected_is_refused(connect: Front, daemon: Daemon, sleeper: Sleeper) -> None:
    with nsbroker.Namespace.from_pid(sleeper.pid, "net") as space:
        good = Expectation(NamespaceType.NET, space.device, space.inode, start_time(sleeper.pid))
    bad = [
        (replace(good, inode=5), "inode"), (replace(good, device=1), "device"), (replace(good, start_time=7), "started at"),
        (replace(good, type=None, inode=5), "inode"),
    ]  # fmt: skip
    async with connect(daemon.address) as broker:
        (await broker.open(f"pid:{sleeper.pid}", "net", expect=good)).close()
        for space in (await broker.open_all(f"pid:{sleeper.pid}", ["net", "uts"], expect=good)).values():
            space.close()
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


async def test_the_other_verbs(connect: Front, daemon: Daemon) -> None:
    async with connect(daemon.address) as broker:
        assert (await broker.who_am_i()).pid == os.getpid()
        assert (await broker.explain("self", ["net"])).allowed
        assert (await broker.status()).connections == 1


async def test_an_error_of_the_broker_leaves_the_connection_in_use(connect: Front, daemon: Daemon) -> None:
    async with connect(daemon.address) as broker:
        with pytest.raises(NoSuchTarget):
            await broker.open("name:green", "net")
        await broker.who_am_i()


async def test_bad_input_is_refused_before_anything_is_sent(connect: Front, daemon: Daemon) -> None:
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
        (lambda broker: broker.release("\udcff"), InvalidTarget, "not UTF-8"),
    ],
)
async def test_what_cannot_be_meant_is_refused_with_what_can(connect: Front, ask: Any, error: type[Exception], says: str) -> None:
    with impostor(lambda sock: None) as address:
        async with connect(address) as broker:
            with pytest.raises(error, match=says):
                await ask(broker)


async def test_a_closed_pidfd_is_a_plain_error(connect: Front, daemon: Daemon) -> None:
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
async def test_no_broker_at_the_address(connect: Front, address: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        async with connect(address):
            pass


async def test_a_dead_socket_says_so(connect: Front) -> None:
    path = Path(f"/run/dead-{os.getpid()}")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    with pytest.raises(ConnectionFailed, match="is the daemon running"):
        async with connect(f"unix:{path}"):
            pass
    path.unlink()


async def test_the_address_of_the_environment_is_used(connect: Front, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSBROKER_ADDRESS", daemon.address)
    async with connect(None) as broker:
        await broker.who_am_i()


async def test_trio_tasks_share_a_connection(daemon: Daemon, sleeper: Sleeper) -> None:
    async with nsbroker.client.trio.connect(daemon.address) as broker, trio.open_nursery() as nursery:

        async def ask() -> None:
            for _ in range(20):
                with await broker.open(f"pid:{sleeper.pid}", "net") as space:
                    assert space.inode == sleeper.inode("net")

        for _ in range(10):
            nursery.start_soon(ask)


def test_asyncio_tasks_share_a_connection(daemon: Daemon, sleeper: Sleeper) -> None:
    async def main() -> None:
        async with nsbroker.client.asyncio.connect(daemon.address) as broker, asyncio.TaskGroup() as group:

            async def ask() -> None:
                for _ in range(20):
                    with await broker.open(f"pid:{sleeper.pid}", "net") as space:
                        assert space.inode == sleeper.inode("net")

            for _ in range(10):
                group.create_task(ask())

    asyncio.run(main())


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts and says nothing.  Made up, because the real one answers."""
    path = f"/run/silent-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        yield f"unix:{path}"
    os.unlink(path)


async def test_a_trio_call_that_is_cancelled_ends_the_connection_and_leaks_nothing(silent: str) -> None:
    async with nsbroker.client.trio.connect(silent) as broker:
        for _ in range(2):
            # The second call is on a connection of its own: the answer to the first could still come on the first.
            with trio.move_on_after(0.05) as scope:
                await broker.who_am_i()
            assert scope.cancelled_caught
    with pytest.raises(ConnectionLost, match="connect again"):
        await broker.who_am_i()


def test_an_asyncio_call_that_is_cancelled_ends_the_connection_and_leaks_nothing(silent: str) -> None:
    async def main() -> None:
        async with nsbroker.client.asyncio.connect(silent) as broker:
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await broker.who_am_i()
        with pytest.raises(ConnectionLost, match="connect again"):
            await broker.who_am_i()

    asyncio.run(main())


async def test_closing_a_trio_connection_wakes_who_waits_on_it(silent: str) -> None:
    async with nsbroker.client.trio.connect(silent) as broker:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:

                async def wait() -> None:
                    with pytest.raises(ConnectionLost, match="closed meanwhile"):
                        await broker.who_am_i()

                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                broker.close()


def test_closing_an_asyncio_connection_wakes_who_waits_on_it(silent: str) -> None:
    async def main() -> None:
        async with nsbroker.client.asyncio.connect(silent) as broker, asyncio.timeout(5):
            waiting = asyncio.create_task(broker.who_am_i())
            await asyncio.sleep(0.05)
            broker.close()
            with pytest.raises(ConnectionLost, match="closed meanwhile"):
                await waiting

    asyncio.run(main())


def test_threads_share_a_blocking_connection(daemon: Daemon, sleeper: Sleeper) -> None:
    wrong: list[int] = []

    def ask() -> None:
        for _ in range(50):
            with broker.open(f"pid:{sleeper.pid}", "net") as space:
                if space.inode != sleeper.inode("net"):
                    wrong.append(space.inode)

    with daemon.connect() as broker:
        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_blocking_call_gives_up_after_its_timeout(silent: str) -> None:
    with nsbroker.connect(silent, timeout=0.05) as broker:
        for _ in range(2):
            with pytest.raises(Timeout, match=r"ask who I am: .* within 0.05 s.*systemctl status nsbroker"):
                broker.who_am_i()
    with pytest.raises(ConnectionLost, match="connect again"):
        broker.who_am_i()


async def test_a_connection_that_ended_between_two_calls_is_made_anew(daemon: Daemon) -> None:
    async with nsbroker.client.trio.connect(daemon.address) as one:
        with daemon.connect() as other:
            for stop in (signal.SIGTERM, signal.SIGKILL):
                assert (await one.who_am_i()).pid == other.who_am_i().pid
                daemon.stop(stop)
                with pytest.raises(ConnectionFailed):
                    other.who_am_i()
                daemon.start()


def test_a_connection_of_asyncios_that_ended_between_two_calls_is_made_anew(daemon: Daemon) -> None:
    async def main() -> None:
        async with nsbroker.client.asyncio.connect(daemon.address) as broker:
            await broker.who_am_i()
            daemon.stop()
            with pytest.raises(ConnectionFailed):
                await broker.who_am_i()
            daemon.start()
            await broker.who_am_i()

    asyncio.run(main())


def test_no_call_is_lost_while_the_broker_is_stopped_and_started_again(daemon: Daemon, sleeper: Sleeper) -> None:
    lost: list[Exception] = []
    answered = [0]
    done = threading.Event()

    def ask() -> None:
        with daemon.connect() as broker:
            while not done.is_set():
                try:
                    with broker.open(f"pid:{sleeper.pid}", "net") as space:
                        assert space.inode == sleeper.inode("net")
                    answered[0] += 1
                except ConnectionFailed:
                    # Between two daemons there is nobody: without a service manager that keeps the socket.
                    time.sleep(0.002)
                except Exception as error:
                    lost.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        time.sleep(0.2)
        daemon.stop()
        daemon.start()
    done.set()
    for thread in threads:
        thread.join()
    assert lost == []
    assert answered[0] > 100


@pytest.mark.root
def test_a_socket_that_is_closed_to_us_says_so(daemon: Daemon) -> None:
    daemon.socket.chmod(0o600)

    def ask() -> None:
        with pytest.raises(ConnectionFailed, match="not open to you"):
            nsbroker.connect(daemon.address)

    as_user(ALICE, ask)
