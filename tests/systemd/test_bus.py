"""Many calls for units at once, which share one connection to the bus, and a bus that goes away."""

import contextlib
import json
import os
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nsbroker.errors import EngineUnavailable
from tests.systemd.test_units_and_machines import inodes, opened, prop, run, wait_for_program
from tests.world import ALICE, BOB, PATIENCE, SLOWNESS, Daemon, as_user, check_below, eventually

pytestmark = pytest.mark.root
IN_FLIGHT = 250
ROUNDS = 6
QUESTION = json.dumps({"method": "io.nsbroker.Broker.Open", "parameters": {"target": {"unit": "web.service"}, "types": ["net"]}})


@pytest.fixture
def web() -> Iterator[str]:
    run("systemd-run", "--collect", "--unit=web", "-p", "PrivateNetwork=yes", "sleep", "1000")
    wait_for_program("web.service", "sleep")
    yield "web.service"
    run("systemctl", "stop", "web.service")


def connections(daemon: Daemon) -> int:
    """Return the number of connections that the daemon has to the bus."""
    rows = [row.split() for row in run("busctl", "list", "--unique", "--no-legend").splitlines()]
    return sum(row[1] == str(daemon.pid) for row in rows)


def keep_calls_in_flight(address: Path) -> int:
    """Keep 250 calls in flight, and return how many calls failed."""
    with contextlib.ExitStack() as held:
        socks = [held.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(IN_FLIGHT)]
        for sock in socks:
            sock.connect(str(address))
            sock.settimeout(3 * PATIENCE)
        failed = 0
        for _ in range(ROUNDS):
            for sock in socks:
                sock.sendall(QUESTION.encode() + b"\0")
            for sock in socks:
                data, fds, _, _ = socket.recv_fds(sock, 4096, 1)
                failed += b'"error"' in data
                for fd in fds:
                    os.close(fd)
        return failed


def times(daemon: Daemon, target: str, until: Callable[[], bool]) -> list[float]:
    """Call until `until` returns True, but at least fifty times.  Return the seconds that each call took, sorted."""
    found: list[float] = []
    with daemon.connect() as broker:
        while len(found) < 50 or not until():
            start = time.monotonic()
            broker.open(target, "net").close()
            found.append(time.monotonic() - start)
    return sorted(found)


def test_250_calls_of_one_user_in_flight_delay_no_other_user(web: str, daemon: Daemon) -> None:
    daemon.allow("web", who=[f"user:{ALICE}", f"user:{BOB}"], targets=["unit:web.service"], namespaces=["net"])
    before = daemon.snapshot()
    check_below(20, lambda: attack(daemon, web), "the slow calls of others during the attack, of usual ones before it")
    # The connection to the bus is closed when nobody needs it any more.
    daemon.settles_at(before)
    eventually(lambda: connections(daemon) == 0, "the bus knows of no connection")


def attack(daemon: Daemon, web: str) -> float:
    """Have alice keep 250 calls in flight.  Returns how many times longer the slow calls of root and bob take than before."""
    idle = times(daemon, f"unit:{web}", lambda: True)
    ended = Path("/run/ended")
    failed: list[int] = []

    def keep_alice_busy() -> None:
        try:
            failed.append(as_user(ALICE, lambda: keep_calls_in_flight(daemon.socket)))
        finally:
            ended.touch()

    def innocent() -> list[float]:
        return times(daemon, f"unit:{web}", ended.exists)

    thread = threading.Thread(target=keep_alice_busy)
    thread.start()
    try:
        others = threading.Thread(target=lambda: bobs.extend(as_user(BOB, innocent)))
        bobs: list[float] = []
        others.start()
        assert connections(daemon) <= 1
        roots = innocent()
        others.join()
        assert connections(daemon) <= 1
    finally:
        thread.join()
        ended.unlink()
    assert failed == [0]
    assert bobs
    # On a busy machine, a process waits some milliseconds only for a processor.
    return max(found[int(len(found) * 0.99)] for found in (roots, bobs)) / max(statistics.median(idle), 0.005 * SLOWNESS)


BUS = Path("/run/dbus/system_bus_socket")


class Proxy:
    """Stands between the daemon and the bus, and forwards messages.  It can hang up, and it can be silent."""

    def __init__(self) -> None:
        BUS.rename("/run/dbus/away")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(BUS))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self._socks: list[socket.socket] = []
        self.accepted = 0
        self.is_silent = False

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours, _ = self._listener.accept()
                theirs = socket.socket(socket.AF_UNIX)
                theirs.connect("/run/dbus/away")
                self.accepted += 1
                self._socks += [ours, theirs]
                for one, other in ((ours, theirs), (theirs, ours)):
                    self._threads.append(threading.Thread(target=self._pass_on, args=(one, other)))
                    self._threads[-1].start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                if not self.is_silent:
                    other.sendall(data)
        self._shut(one, other)

    @staticmethod
    def _shut(*socks: socket.socket) -> None:
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def hang_up(self) -> None:
        self._shut(*self._socks)

    def close(self) -> None:
        self._shut(self._listener, *self._socks)
        for thread in self._threads:
            thread.join()
        for sock in (self._listener, *self._socks):
            sock.close()
        Path("/run/dbus/away").rename(BUS)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.close()


def test_a_bus_that_hangs_up_is_asked_over_a_new_connection(web: str, proxy: Proxy, daemon: Daemon) -> None:
    pid = int(prop(web, "MainPID"))
    for number in range(1, 4):
        for _ in range(3):
            assert opened(daemon, f"unit:{web}") == inodes(pid)
        assert proxy.accepted == number
        proxy.hang_up()


def test_a_silent_bus_delays_a_call_up_to_the_deadline_and_is_used_again_afterwards(web: str, proxy: Proxy, tmp_path: Path) -> None:
    # After ten seconds without an answer, the broker would use another connection.
    with Daemon(tmp_path, limits="engine-deadline = 2") as daemon, daemon.connect() as broker:
        broker.open(f"unit:{web}", "net").close()
        proxy.is_silent = True
        start = time.monotonic()
        with pytest.raises(EngineUnavailable, match="no answer in 2 s"):
            broker.open(f"unit:{web}", "net")
        assert time.monotonic() - start < 2 + SLOWNESS
        proxy.is_silent = False
        for _ in range(20):
            broker.open(f"unit:{web}", "net").close()
        assert proxy.accepted == 1


def test_callers_who_hang_up_half_way_disturb_nobody(web: str, daemon: Daemon) -> None:
    daemon.allow("web", who=[f"user:{ALICE}"], targets=["unit:web.service"], namespaces=["net"])
    end = time.monotonic() + 3

    def hang_up() -> int:
        count = 0
        while time.monotonic() < end or count <= 100:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(daemon.socket))
                sock.sendall(QUESTION.encode() + b"\0")
                count += 1
        return count

    thread = threading.Thread(target=lambda: as_user(ALICE, hang_up))
    thread.start()
    try:
        with daemon.connect() as broker:
            while thread.is_alive():
                broker.open(f"unit:{web}", "net").close()
                assert connections(daemon) <= 1
    finally:
        thread.join()


def test_a_rule_for_every_unit_lists_units_and_ignores_slices(web: str, daemon: Daemon) -> None:
    daemon.allow("units", who=[f"user:{ALICE}"], targets=["unit:*"], namespaces=["net"])
    # These units sort before web.service and have no processes.  If each of them counted, there would be no room for web.service.
    made = [f"aaa{number:03}.service" for number in range(100)]
    for name in made:
        run("systemd-run", f"--unit={name}", "--remain-after-exit", "--no-block", "true")
    slices = [f"aab{number:03}" for number in range(40)]
    for name in slices:
        run("systemctl", "start", f"{name}.slice")
    try:
        eventually(lambda: prop(made[-1], "SubState") == "exited", "they are done")
        inode = inodes(int(prop(web, "MainPID")))
        net = next(number for ns_type, number in inode.items() if ns_type == "net")

        def look() -> dict[int, list[str] | None]:
            with daemon.connect() as broker:
                return {one.inode: one.units for one in broker.list(["net"])}

        assert as_user(ALICE, look)[net] == [web]
    finally:
        run("systemctl", "stop", *made, *(f"{name}.slice" for name in slices))
