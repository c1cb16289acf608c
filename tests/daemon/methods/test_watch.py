"""Watch: namespaces that come and go, none of which is missed, and what watching costs."""

import contextlib
import math
import os
import queue
import socket
import subprocess
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import trio

import nsbroker.client.asyncio
import nsbroker.client.trio
from nsbroker.client.blocking import connect
from nsbroker.client.blocking_methods import Watch
from nsbroker.client.events import Event
from nsbroker.daemon.context import Context
from nsbroker.daemon.discovery.scanner import Scanner
from nsbroker.daemon.discovery.view import View
from nsbroker.daemon.discovery.views import Views
from nsbroker.daemon.methods.call import Caller
from nsbroker.daemon.methods.watch import WatchMethod
from nsbroker.errors import ConnectionLost, NsbrokerError, QuotaExceeded
from nsbroker.model.description import NamespaceDescription
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace
from tests.engines.real import WORK, Crun
from tests.world import ALICE, PATIENCE, SLOWNESS, Daemon, Sleeper, as_user, check_below, eventually, named_network

_LATE = 1.0 * SLOWNESS
# With 200 containers, the test takes a quarter of a minute.
_CONTAINERS = int(os.environ.get("CONTAINERS", "20"))


class EventReader:
    """Reads the events of a watch on a thread."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._events: queue.SimpleQueue[Event | NsbrokerError] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        while self.next().event != "ready":
            pass

    def _read(self) -> None:
        try:
            for event in self._watch:
                self._events.put(event)
        except NsbrokerError as error:
            self._events.put(error)

    def next(self) -> Event:
        event = self._events.get(timeout=PATIENCE)
        if isinstance(event, NsbrokerError):
            raise event
        return event

    def wait_for(self, event: str, inode: int) -> None:
        """Read on until this event of this namespace."""
        while True:
            reply = self.next()
            if reply.namespace is not None and (reply.event, reply.namespace.inode) == (event, inode):
                return

    def close(self) -> None:
        self._watch.close()
        self._thread.join()


@pytest.fixture
def seen(daemon: Daemon) -> Iterator[EventReader]:
    with daemon.connect() as broker, broker.watch(["net"]) as events:
        reading = EventReader(events)
        yield reading
        reading.close()


def test_a_namespace_that_begins_or_ends_is_reported_within_a_second(seen: EventReader) -> None:
    def measure() -> float:
        with Sleeper() as process:
            began, inode = time.monotonic(), process.inode("net")
            seen.wait_for("added", inode)
            late = time.monotonic() - began
        ended = time.monotonic()
        seen.wait_for("gone", inode)
        return max(late, time.monotonic() - ended)

    check_below(_LATE, measure, "seconds until it was reported")


@pytest.mark.root
def test_a_named_network_without_a_process_is_reported_too(seen: EventReader) -> None:
    with named_network("red"):
        inode = Path("/run/netns/red").stat().st_ino
        seen.wait_for("added", inode)
    seen.wait_for("gone", inode)


def test_a_watch_starts_with_the_namespaces_that_exist(daemon: Daemon, sleeper: Sleeper) -> None:
    def watched() -> list[tuple[str, int]]:
        present: list[tuple[str, int]] = []
        with broker.watch(["uts", "net"]) as events:
            for event in events:
                if event.event == "ready":
                    return present
                assert event.event == "present"
                assert event.namespace is not None
                present.append((event.namespace.type, event.namespace.inode))
        raise AssertionError("it ended")

    def listed() -> list[tuple[str, int]]:
        return [(one.type, one.inode) for one in broker.list(["uts", "net"])]

    def agree() -> bool:
        before, found, after = listed(), watched(), listed()
        # Namespaces of other programs on this machine begin and end all the time.
        lasting = set(before) & set(after)
        return [one for one in found if one in lasting] == [one for one in before if one in lasting]

    with daemon.connect() as broker:
        eventually(agree, "watch and list agree")
        assert ("net", sleeper.inode("net")) in watched()


class EventTimes:
    """Notes when each event of a watch came, by its name and the namespace's inode."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._ready = threading.Event()
        self.times: dict[tuple[str, int], float] = {}
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    def _read(self) -> None:
        with contextlib.suppress(ConnectionLost):
            for event in self._watch:
                if event.namespace is not None:
                    self.times.setdefault((event.event, event.namespace.inode), time.monotonic())
                elif event.event == "ready":
                    self._ready.set()

    def delays(self, event: str, since: dict[int, float]) -> list[float]:
        """Return how late each event came.  The kernel reuses inode numbers, so the events are forgotten here."""
        eventually(lambda: all((event, inode) in self.times for inode in since), f"each is reported as {event}")
        return [self.times.pop((event, inode)) - began for inode, began in since.items()]

    def close(self) -> None:
        self._watch.close()
        self._thread.join()


def network_of(pid: int) -> int:
    return os.stat(f"/proc/{pid}/ns/net").st_ino


@pytest.mark.root
def test_containers_begin_and_end_by_tens_and_none_is_missed(daemon: Daemon) -> None:
    if missing := Crun.missing():
        if os.environ.get("ENGINES") == "all":
            pytest.fail(f"crun needs {missing}")
        pytest.skip(f"crun needs {missing}")
    WORK.mkdir(exist_ok=True)
    crun = Crun()
    crun.start()
    late: list[float] = []
    with daemon.connect() as broker, broker.watch(["net"]) as events:
        times = EventTimes(events)
        for batch in range(_CONTAINERS // 10):
            names = [f"w{batch}-{number}" for number in range(10)]
            began, ended, inodes = {}, {}, {}
            for name in names:
                crun.make(name)
                inodes[name] = network_of(crun.pid(name))
                began[inodes[name]] = time.monotonic()
            late += times.delays("added", began)
            for name in names:
                crun.remove(name)
                ended[inodes[name]] = time.monotonic()
            late += times.delays("gone", ended)
        times.close()
    crun.close()
    assert len(late) == 2 * _CONTAINERS
    # On a busy machine, some are late.
    assert sorted(late)[len(late) // 2] < _LATE, sorted(late)


def test_a_client_that_stops_reading_gets_missed_and_delays_nobody(daemon: Daemon) -> None:
    namespaces = []
    with daemon.raw() as sock, daemon.connect() as other, other.watch(["uts"]) as watch, closing(EventReader(watch)) as reading:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.send(b'{"method":"io.nsbroker.Broker.Watch","parameters":{"types":["uts"]},"more":true}\0')
        for _ in range(3):
            namespaces += [Namespace.create("uts") for _ in range(300)]
            # A process that begins and ends makes the broker scan.
            subprocess.run(["true"], check=True)
            reading.wait_for("added", namespaces[-1].inode)
            check_below(0.5 * SLOWNESS, lambda: seconds_of(other.who_am_i), "seconds of another call")
        # After a second without room for events, the broker sends no more of them.
        time.sleep(1.5 * SLOWNESS)
        check_below(0.5 * SLOWNESS, lambda: seconds_of(other.who_am_i), "seconds of another call")
        text = b""
        while b'"missed"' not in text:
            text += sock.recv(65536)
        events = {piece.partition(b'"event":"')[2].partition(b'"')[0] for piece in text.split(b"\0") if piece}
        assert b"missed" in events
    for ns in namespaces:
        ns.close()


def seconds_of(call: Callable[[], object]) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


def test_a_client_that_hangs_up_leaves_nothing_behind(daemon: Daemon) -> None:
    before = daemon.snapshot()
    for _ in range(5):
        with daemon.connect() as broker, broker.watch() as events:
            next(events)
    daemon.settles_at(before)
    with daemon.raw() as sock:
        sock.send(b'{"method":"io.nsbroker.Broker.Watch","parameters":{},"more":true}\0')
        sock.recv(1000)
    daemon.settles_at(before)


@pytest.mark.root
def test_watches_of_one_user_are_limited(daemon: Daemon) -> None:
    def ask() -> str:
        with connect(daemon.address) as broker:
            watches = [broker.watch(["net"]).__enter__() for _ in range(16)]
            for watch in watches:
                next(watch)
            with broker.watch(["net"]) as one_more:
                try:
                    next(one_more)
                except QuotaExceeded as error:
                    return str(error)
                finally:
                    for watch in watches:
                        watch.close()
        return "one too many"

    assert "watches of one user" in as_user(ALICE, ask)


def test_a_daemon_that_ends_ends_its_watches(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon, daemon.connect() as broker, broker.watch(["net"]) as events:
        next(events)
        daemon.stop()
        with pytest.raises(ConnectionLost):
            for _ in events:
                pass


async def test_the_trio_and_asyncio_clients_can_watch_too(daemon: Daemon, sleeper: Sleeper) -> None:
    import asyncio

    import trio

    inode = sleeper.inode("net")
    async with nsbroker.client.trio.connect(daemon.address) as broker, broker.watch(["net"]) as events:
        async for event in events:
            if event.namespace is not None and event.namespace.inode == inode:
                break
        # The connection itself can be used meanwhile.
        await broker.who_am_i()
        with trio.move_on_after(0.05):
            while True:
                await events.__anext__()
    with pytest.raises(ConnectionLost):
        await events.__anext__()

    async def on_asyncio() -> bool:
        async with nsbroker.client.asyncio.connect(daemon.address) as broker, broker.watch(["net"]) as events:
            async for event in events:
                if event.namespace is not None and event.namespace.inode == inode:
                    return True
        return False

    # pytest-trio runs the tests, so asyncio runs on a thread.
    assert await trio.to_thread.run_sync(asyncio.run, on_asyncio())


class MadeUpViews:
    """Views of one network, each with the number that the kernel gave it, or None where it could not be read."""

    def __init__(self, numbers: list[int | None]) -> None:
        self._numbers = iter(numbers)

    async def view(self, *_: object, quick: bool) -> View:
        assert quick
        number = next(self._numbers)
        # After the last one, there is no network any more.
        ids = ["net:[17]"] if number != 0 else []
        return cast(View, SimpleNamespace(ids=lambda: ids, key=lambda ns_id: (ns_id, number)))

    async def descriptions(self, _: object, ns_ids: list[str]) -> AsyncGenerator[NamespaceDescription, None]:
        for _ in ns_ids:
            yield NamespaceDescription(NamespaceType.NET, 17, 4, 1)


async def test_a_number_that_can_be_read_only_later_makes_no_other_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the number of a namespace can be read in a scan depends on when its processes end, so the scans are made up."""

    async def wait(*_: object) -> None:
        await trio.lowlevel.checkpoint()

    policy = SimpleNamespace(seconds_to_next_end=lambda: math.inf)
    scanner = SimpleNamespace(took=0.0)
    views = MadeUpViews([None, 77, 77, None, 0, 0])
    method = WatchMethod(cast(Context, SimpleNamespace(policy=policy)), cast(Scanner, scanner), cast(Views, views))
    monkeypatch.setattr(method._detector, "wait", wait)
    with socket.socket(socket.AF_UNIX) as sock:
        caller = SimpleNamespace(peer=None, grants=lambda _: None, charge=SimpleNamespace(sock=sock))
        async with contextlib.aclosing(method._events(cast(Caller, caller), [NamespaceType.NET], hands_over=False)) as events:
            seen = [str(event) for _ in range(3) for event, _ in [await anext(events)]]
    assert seen == ["present", "ready", "gone"]
