"""`open_many` opens namespaces of many targets, with many calls under way at once."""

import contextlib
import gc
import itertools
import os
import signal
import socket
import subprocess
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

import nsbroker
import nsbroker.client.trio
from nsbroker.errors import ConnectionLost, InvalidTarget, InvalidType, NoSuchTarget, PermissionDenied, ProtocolError, QuotaExceeded
from nsbroker.errors import Timeout as TimedOut
from tests.client.every_client import CLIENTS, Connect, impostor
from tests.client.test_hostile import OPENED
from tests.client.test_in_flight import networks, read_calls, send_net
from tests.world import Daemon, Sleeper

pytestmark = pytest.mark.once

QUOTA = b'{"error":"io.nsbroker.Broker.QuotaExceeded","parameters":{"limit":"%b"}}\0'
UNREAD = QUOTA % b"unread-descriptors-per-user"
DENIED = b'{"error":"org.varlink.service.PermissionDenied"}\0'


@pytest.fixture(params=CLIENTS)
def connect(request: pytest.FixtureRequest) -> Connect:
    return CLIENTS[request.param]


@pytest.fixture
def thousand() -> Iterator[list[str]]:
    """A thousand processes, as targets."""
    command = "i=0; while [ $i -lt 1000 ]; do sleep 600 >/dev/null & echo $!; i=$((i+1)); done; exec >/dev/null; wait"
    with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout
        try:
            yield [f"pid:{int(line)}" for line in process.stdout]
        finally:
            os.killpg(process.pid, signal.SIGKILL)


async def test_a_thousand_processes_are_opened_in_their_order(connect: Connect, daemon: Daemon, thousand: list[str]) -> None:
    async with connect(daemon.address) as broker:
        items = await broker.open_each(thousand, ["net", "uts"])
    inodes = {name: os.stat(f"/proc/self/ns/{name}").st_ino for name in ("net", "uts")}
    assert items == [(target, inodes) for target in thousand]


async def test_many_calls_are_under_way_at_once(connect: Connect) -> None:
    """The fake broker replies only after it has read many calls, which the real one has no reason to do."""

    def behave(sock: socket.socket) -> None:
        seen = sent = 0
        while sent < 300:
            while seen < min(sent + 64, 300):
                seen += read_calls(sock, 1)
            for _ in range(seen - sent):
                send_net(sock)
            sent = seen

    with impostor(behave) as address:
        async with connect(address) as broker:
            assert len(await broker.open_each(["self"] * 300)) == 300


async def test_each_target_has_its_namespaces_or_its_error(connect: Connect, daemon: Daemon, sleeper: Sleeper) -> None:
    async with connect(daemon.address) as broker:
        items = await broker.open_each([f"pid:{sleeper.pid}", "pid:x", "pid:4194303", "name:\udcff", "self"], None)
    targets, outcomes = zip(*items, strict=True)
    assert targets == (f"pid:{sleeper.pid}", "pid:x", "pid:4194303", "name:\udcff", "self")
    assert outcomes[0]["net"] == sleeper.inode("net")
    assert outcomes[4]["net"] == os.stat("/proc/self/ns/net").st_ino
    assert [isinstance(outcome, InvalidTarget) for outcome in outcomes] == [False, True, False, True, False]
    assert isinstance(outcomes[2], NoSuchTarget | PermissionDenied)


async def test_targets_without_end_are_read_as_they_are_needed(connect: Connect, daemon: Daemon) -> None:
    targets = (number for number in itertools.count())
    read: list[int] = []

    def endless() -> Iterator[str]:
        for number in targets:
            read.append(number)
            yield "self"

    async with connect(daemon.address) as broker:
        assert len(await broker.open_each(endless(), ["net"], 10)) == 10
        # The connection can be used afterwards: the replies that nobody took are received and closed.
        assert (await broker.who_am_i()).pid == os.getpid()
    assert 10 <= len(read) <= 300


async def test_no_targets(connect: Connect, daemon: Daemon) -> None:
    async with connect(daemon.address) as broker:
        assert await broker.open_each([]) == []


@pytest.mark.parametrize(
    ("targets", "types", "error"),
    [("self", ["net"], InvalidTarget), (["self"], ["x"], InvalidType), (["self"], "net", InvalidType)],
)
async def test_wrong_arguments(connect: Connect, daemon: Daemon, targets: Any, types: Any, error: type[Exception]) -> None:
    async with connect(daemon.address) as broker:
        with pytest.raises(error):
            await broker.open_each(targets, types)


async def test_handles_that_are_not_taken_are_closed_with_the_iterator(connect: Connect) -> None:
    def behave(sock: socket.socket) -> None:
        # All replies are under way before the client takes the first.
        read_calls(sock, 100)
        for _ in range(100):
            send_net(sock)
        if read_calls(sock, 1):
            sock.sendall(DENIED)

    with impostor(behave) as address:
        async with connect(address) as broker:
            before = networks()
            assert len(await broker.open_each(["self"] * 100, ["net"], 3)) == 3
            with pytest.raises(PermissionDenied):
                await broker.who_am_i()
            assert networks() == before


def test_handles_of_a_forgotten_iterator_are_closed(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        before = networks()
        opened = broker.open_many(["self"] * 100, ["net"])
        _, namespaces = next(opened)
        assert isinstance(namespaces, dict)
        for ns in namespaces.values():
            ns.close()
        del opened
        gc.collect()
        broker.who_am_i()
        assert networks() == before


def test_a_closed_iterator_is_at_its_end(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        opened = broker.open_many(["self"] * 100, ["net"])
        opened.close()
        opened.close()
        assert list(opened) == []


async def test_other_calls_go_on_between_the_targets(daemon: Daemon) -> None:
    async with nsbroker.client.trio.connect(daemon.address) as broker, broker.open_many(["self"] * 200, ["net"]) as opened:
        count = 0
        async for _, namespaces in opened:
            assert isinstance(namespaces, dict)
            for ns in namespaces.values():
                ns.close()
            assert (await broker.who_am_i()).pid == os.getpid()
            count += 1
        assert count == 200


async def test_cancelling_at_every_await_skips_no_target(daemon: Daemon, sleeper: Sleeper) -> None:
    targets = [f"pid:{sleeper.pid}", "self"] * 20
    async with nsbroker.client.trio.connect(daemon.address) as broker, broker.open_many(targets, ["net"]) as opened:
        taken: list[str] = []
        turns = 0
        while len(taken) < len(targets):
            turns += 1
            async with trio.open_nursery() as nursery:
                with trio.CancelScope() as scope:

                    async def cancel(turns: int, scope: trio.CancelScope) -> None:
                        for _ in range(turns):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()

                    nursery.start_soon(cancel, turns % 7, scope)
                    target, namespaces = await anext(opened)
                    assert isinstance(namespaces, dict)
                    for ns in namespaces.values():
                        ns.close()
                    taken.append(str(target))
        assert taken == targets


async def test_the_quota_of_unread_descriptors_delays_but_does_not_fail(connect: Connect) -> None:
    refused = threading.Event()

    def behave(sock: socket.socket) -> None:
        while read_calls(sock, 1):
            if refused.is_set():
                send_net(sock)
            else:
                refused.set()
                sock.sendall(UNREAD)

    with impostor(behave) as address:
        async with connect(address) as broker:
            (_, outcome), *_ = await broker.open_each(["self"])
            assert "net" in outcome


@pytest.mark.parametrize("limit", [b"unread-descriptors-per-user", b"other"])
async def test_a_quota_that_stays_exceeded_is_the_error_of_the_target(connect: Connect, limit: bytes) -> None:
    def behave(sock: socket.socket) -> None:
        while read_calls(sock, 1):
            sock.sendall(QUOTA % limit)

    with impostor(behave) as address:
        async with connect(address) as broker:
            ((_, outcome),) = await broker.open_each(["self"])
            assert isinstance(outcome, QuotaExceeded)


async def test_a_tight_quota(connect: Connect, tmp_path: Path) -> None:
    with Daemon(tmp_path, limits="unread-descriptors-per-user = 16") as daemon:
        async with connect(daemon.address) as broker:
            items = await broker.open_each(["self"] * 200, ["net", "uts"])
    assert [type(outcome) for _, outcome in items] == [dict] * 200


async def test_a_connection_that_ends_once_is_made_again(connect: Connect) -> None:
    """It also ends when the caller takes so long that the broker gives up."""
    connections: list[socket.socket] = []

    def behave(sock: socket.socket) -> None:
        connections.append(sock)
        if len(connections) == 1:
            read_calls(sock, 20)
            return
        while read_calls(sock, 1):
            send_net(sock)

    with impostor(behave) as address:
        async with connect(address) as broker:
            items = await broker.open_each(["self"] * 20)
    assert [type(outcome) for _, outcome in items] == [dict] * 20
    assert len(connections) == 2


def hang_up(sock: socket.socket) -> None:
    """Hang up on every connection."""
    sock.recv(1)


def fall_silent(sock: socket.socket) -> None:
    """Reply to some calls only."""
    read_calls(sock, 20)
    for _ in range(5):
        send_net(sock)
    while sock.recv(1 << 16):
        pass


@pytest.mark.parametrize(("behave", "error"), [(hang_up, ConnectionLost), (fall_silent, TimedOut)])
async def test_a_broker_that_is_gone_ends_the_iterator(connect: Connect, behave: Any, error: type[Exception]) -> None:
    with impostor(behave) as address:
        async with connect(address, timeout=0.5) as broker:
            with pytest.raises(error):
                await broker.open_each(["self"] * 20)


async def test_replies_in_disorder_are_errors_of_the_targets(connect: Connect) -> None:
    def behave(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while read_calls(sock, 1):
                sock.sendall(OPENED % 0)

    with impostor(behave) as address:
        async with connect(address) as broker:
            items = await broker.open_each(["self"] * 20)
    assert {type(outcome) for _, outcome in items} == {ProtocolError}


def test_closing_the_client_ends_the_iterator(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        opened = broker.open_many(["self"] * 200, ["net"])
        with warnings.catch_warnings():
            # The handles of the first target are forgotten.
            warnings.simplefilter("ignore", ResourceWarning)
            next(opened)
            gc.collect()
        broker.close()
        with pytest.raises(ConnectionLost):
            next(opened)
