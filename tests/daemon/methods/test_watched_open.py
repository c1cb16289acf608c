"""A watch that opens: each event of a namespace comes with a handle of exactly that namespace, and none is lost or leaked."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.client.events import Event
from nsbroker.errors import InvalidType, NsbrokerError
from nsbroker.linux.ancillary import SCM_MAX_FD
from nsbroker.namespace import Namespace
from tests.world import ALICE, Daemon, Sleeper, as_user, eventually, named_network

# With 500, as many containers come and go as on a large host.
_NETWORKS = int(os.environ.get("NETWORKS", "40"))


class Handles:
    """Reads a watch on a thread: the inodes of the networks that came, with a handle or without, and of those that are gone."""

    def __init__(self, daemon: Daemon, types: list[str]) -> None:
        self.opened: set[int] = set()
        self.unopened: set[int] = set()
        self.gone: set[int] = set()
        self.wrong: list[Event] = []
        self._ready = threading.Event()
        self._broker = daemon.connect()
        self._watch = self._broker.watch(["net", "uts"], open=types)
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        with contextlib.suppress(NsbrokerError):
            for event in self._watch:
                self._note(event)

    def _note(self, event: Event) -> None:
        found = event.namespace
        if event.event == "ready":
            self._ready.set()
        if found is None:
            return
        with event.handle or contextlib.nullcontext():
            is_gone = event.event == "gone"
            if event.handle is not None and (is_gone or os.fstat(event.handle.fileno()).st_ino != found.inode):
                self.wrong.append(event)
            (self.gone if is_gone else self.unopened if event.handle is None else self.opened).add(found.inode)

    def __enter__(self) -> "Handles":
        self._watch.__enter__()
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.close()
        self._thread.join()
        self._broker.close()


def test_what_exists_and_what_comes_is_handed_over(daemon: Daemon, sleeper: Sleeper) -> None:
    before = daemon.snapshot()
    with Handles(daemon, ["net"]) as handles:
        eventually(lambda: sleeper.inode("net") in handles.opened, "the network that exists comes with a handle")
        with Sleeper() as other:
            inode = other.inode("net")
            eventually(lambda: inode in handles.opened, "the network that is new comes with a handle")
            assert other.inode("uts") not in handles.opened
        eventually(lambda: inode in handles.gone, "it is gone")
    assert not handles.wrong
    daemon.settles_at(before)
    opened = [record for record in daemon.records() if record["method"] == "Watch" and record.get("namespaces")]
    assert f"net:[{inode}]" in {record["namespaces"] for record in opened}
    assert {record["verdict"] for record in opened} == {"allowed"}


@pytest.mark.root
def test_networks_come_and_go_and_no_handle_is_lost(daemon: Daemon) -> None:
    before = daemon.snapshot()
    with Handles(daemon, ["net"]) as handles, contextlib.ExitStack() as stack:
        inodes = set()
        for number in range(_NETWORKS):
            stack.enter_context(named_network(f"watched{number}"))
            inodes.add(Path(f"/run/netns/watched{number}").stat().st_ino)
        eventually(lambda: inodes <= handles.opened, "each network comes with a handle")
        stack.close()
        eventually(lambda: inodes <= handles.gone, "each network is gone")
    assert not handles.wrong
    daemon.settles_at(before)


@pytest.mark.root
def test_a_user_gets_what_rules_name_and_nothing_else(daemon: Daemon, sleeper: Sleeper) -> None:
    daemon.allow("watcher", who=[f"user:{ALICE}"], targets=["name:red"], namespaces=["net"])

    def watched() -> tuple[set[int], set[int]]:
        opened: set[int] = set()
        unopened: set[int] = set()
        with daemon.connect() as broker, broker.watch(["net"], open=["net"]) as events:
            for event in events:
                if event.event == "ready":
                    return opened, unopened
                assert event.namespace is not None
                with event.handle or contextlib.nullcontext():
                    (unopened if event.handle is None else opened).add(event.namespace.inode)
        raise AssertionError("it ended")

    with named_network("red"), named_network("blue"):
        opened, unopened = as_user(ALICE, watched)
        # Processes of the same user that run elsewhere on this machine are her own, too.
        assert Path("/run/netns/red").stat().st_ino in opened
        assert Path("/run/netns/blue").stat().st_ino not in opened | unopened
    records = [record for record in daemon.records() if record["target"] == "name:red"]
    assert [(record["method"], record["verdict"], record["rule"]) for record in records] == [("Watch", "allowed", "watcher")]


def test_only_types_that_are_watched_can_be_opened(daemon: Daemon) -> None:
    with daemon.connect() as broker, pytest.raises(InvalidType, match="watches"):
        broker.watch(["net"], open=["uts"])
    with daemon.raw() as sock:
        sock.send(b'{"method":"io.nsbroker.Broker.Watch","parameters":{"types":["net"],"open":["uts"]},"more":true}\0')
        assert b'"parameter":"open"' in sock.recv(1000)


@pytest.fixture
def created() -> Iterator[list[Namespace]]:
    """More namespaces than are sent to a client that does not read."""
    opened = [Namespace.create("uts") for _ in range(120)]
    yield opened
    for ns in opened:
        ns.close()


@pytest.mark.root
def test_a_client_that_does_not_read_is_sent_no_more_than_it_may_have_unread(daemon: Daemon, created: list[Namespace]) -> None:
    before = daemon.snapshot()
    inodes = {ns.inode for ns in created}
    with daemon.connect() as broker, broker.watch(["uts"], open=["uts"]) as events:
        # A caller that keeps the broker waiting for over a second is told so afterwards.
        eventually(lambda: stands_still(daemon), "the broker waits")
        assert handed_over(daemon) <= SCM_MAX_FD
        handles: list[Namespace] = []
        missed = False
        while not (missed and inodes <= {handle.inode for handle in handles}):
            event = next(events)
            missed = missed or event.event == "missed"
            handles += [event.handle] if event.handle is not None else []
        for handle in handles:
            handle.close()
    daemon.settles_at(before)


def stands_still(daemon: Daemon) -> bool:
    before = handed_over(daemon)
    time.sleep(1.5)
    return 0 < before == handed_over(daemon)


def handed_over(daemon: Daemon) -> int:
    return sum(record["method"] == "Watch" and "namespaces" in record for record in daemon.records())


def test_a_client_that_hangs_up_leaves_nothing_behind(daemon: Daemon, sleeper: Sleeper) -> None:
    before = daemon.snapshot()
    for _ in range(3):
        with daemon.raw() as sock:
            sock.send(b'{"method":"io.nsbroker.Broker.Watch","parameters":{"open":["net","uts"]},"more":true}\0')
            sock.recv(1)
    daemon.settles_at(before)
