"""A real Prometheus scrapes the exporter, which an ordinary user runs, beside real containers of crun."""

import contextlib
import os
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nsbroker.namespace import Namespace
from tests.engines.conftest import started
from tests.engines.real import Crun
from tests.exporter_process import PERMISSIONS, Exporter
from tests.prometheus import inside
from tests.prometheus.inside import FILES, Key
from tests.prometheus.server import Prometheus
from tests.world import ALICE, SLOWNESS, Daemon, check_below, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(600 * SLOWNESS)]

TWENTY, HUNDRED, COMING = 20, 100, 200
# The label of a metric that tells its values of one container apart.
OWN_LABELS = ("device", "state", "protocol")
TRIES = 15


@pytest.fixture(scope="module")
def crun() -> Iterator[Crun]:
    for engine in started(Crun):
        assert isinstance(engine, Crun)
        yield engine


@contextlib.contextmanager
def containers(crun: Crun, count: int, prefix: str) -> Iterator[dict[str, int]]:
    """Run containers, in each of which a listener and a connection to it are.  Yields their names and first processes."""
    with contextlib.ExitStack() as stack:
        pids: dict[str, int] = {}
        for number in range(count):
            name = f"{prefix}{number:03}"
            crun.make(name)
            stack.callback(crun.remove, name)
            pids[name] = crun.pid(name)
            network = stack.enter_context(Namespace.from_pid(pids[name], "net"))
            network.call(subprocess.run, ["ip", "link", "set", "lo", "up"])
            use(stack, network, number)
        yield pids


def use(stack: contextlib.ExitStack, network: Namespace, number: int) -> None:
    """Make connections inside a network, other ones in each, and leave some of them open."""
    listener = stack.enter_context(network.call(lambda: socket.create_server(("127.0.0.1", 0), backlog=0)))
    client = stack.enter_context(network.call(socket.create_connection, listener.getsockname()))
    server = stack.enter_context(listener.accept()[0])
    client.sendall(bytes(100 * number))
    server.sendall(bytes(10 * number))
    if number % 3 == 0:
        client.shutdown(socket.SHUT_WR)
    if number % 4 == 0:
        stack.enter_context(network.call(lambda: socket.create_server(("::1", 0), family=socket.AF_INET6)))
    if number % 5 == 0:
        overflow(network, listener.getsockname())


def overflow(network: Namespace, address: tuple[str, int]) -> None:
    """Connect until the listener's queue overflows and the kernel has sent a segment again."""

    def retransmitted() -> bool:
        text = network.call(lambda: Path("/proc/thread-self/net/snmp").read_text())
        head, numbers = (line.split() for line in text.splitlines() if line.startswith("Tcp:"))
        return int(numbers[head.index("RetransSegs")]) > 0

    with contextlib.ExitStack() as stack:
        for _ in range(4):
            sock = stack.enter_context(network.call(socket.socket))
            sock.setblocking(False)
            sock.connect_ex(address)
        eventually(retransmitted, "a segment is sent again")


def scraped(prometheus: Prometheus, container: str) -> dict[Key, float]:
    """Return what Prometheus has of a container, in the form of `inside.read`."""
    selector = f'{{__name__=~"nsbroker_(network|tcp|sockets).*",engine="crun",container="{container}"}}'
    found: dict[Key, float] = {}
    for labels, value in prometheus.query(selector):
        own = "".join(labels.get(label, "") for label in OWN_LABELS)
        found[labels["__name__"].removeprefix("nsbroker_"), own] = value
    return found


def test_each_number_of_twenty_containers_is_what_nsenter_reads_inside(crun: Crun, daemon: Daemon) -> None:
    daemon.allow("exporter", who=[f"user:{ALICE}"], targets=["crun:*"], **PERMISSIONS)
    with containers(crun, TWENTY, "t") as pids, Exporter(daemon, ALICE) as exporter:
        with Prometheus(daemon.folder, exporter.host) as prometheus:
            eventually(lambda: len(prometheus.query("nsbroker_target_up == 1")) == TWENTY, "Prometheus has all containers")
            for name, pid in pids.items():
                eventually(lambda: scraped(prometheus, name) == inside.read(pid), f"all numbers of {name}")  # noqa: B023 - called at once
            numbers = sum(len(inside.read(pid)) for pid in pids.values())
            sums = {
                name: sum(value for pid in pids.values() for (metric, _), value in inside.read(pid).items() if metric == name)
                for name in ("tcp_retransmitted_segments_total", "tcp_listen_overflows_total")
            }
            assert prometheus.query('up{job="nsbroker"}')[0].value == 1
            took = prometheus.query("scrape_duration_seconds")[0].value
        check = subprocess.run(
            [Path(os.environ["PROMETHEUS"]) / "usr/bin/promtool", "check", "metrics"],
            input=exporter.fetch(), capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert all(sums.values()), sums
    assert (check.returncode, check.stdout + check.stderr) == (0, "")
    print(f"\n{numbers} numbers of {TWENTY} containers are equal; of these {sums}; Prometheus took {1000 * took:.0f} ms to scrape")


def test_while_two_hundred_containers_come_and_go_every_scrape_works(crun: Crun, daemon: Daemon) -> None:
    daemon.allow("exporter", who=[f"user:{ALICE}"], targets=["crun:*"], **PERMISSIONS)
    with containers(crun, 2, "stays") as stays, Exporter(daemon, ALICE) as exporter:
        expected = {f"crun:{name}" for name in stays}
        exporter.shows(*expected)
        done = threading.Event()
        seen: set[str] = set()
        times: list[float] = []

        def scrape() -> None:
            while not done.is_set():
                began = time.monotonic()
                there = exporter.scrape().containers()
                times.append(time.monotonic() - began)
                assert expected <= there
                seen.update(there)

        failures: list[BaseException] = []

        def run() -> None:
            try:
                scrape()
            except BaseException as error:
                failures.append(error)

        scraper = threading.Thread(target=run)
        scraper.start()
        try:
            for number in range(COMING):
                crun.make(f"c{number:03}")
                if number >= 10:
                    crun.remove(f"c{number - 10:03}")
            for number in range(COMING - 10, COMING):
                crun.remove(f"c{number:03}")
        finally:
            done.set()
            scraper.join()
        assert failures == []
        exporter.shows(*expected)
    assert exporter.errors == ""
    print(
        f"\n{len(times)} scrapes while {COMING} containers came and went, {len(seen) - 2} of which were seen; "
        f"median {1000 * statistics.median(times):.0f} ms, longest {1000 * max(times):.0f} ms"
    )


def test_a_scrape_of_a_hundred_takes_at_most_twice_what_root_takes_to_read_their_files(crun: Crun, daemon: Daemon) -> None:
    daemon.allow("exporter", who=[f"user:{ALICE}"], targets=["crun:*"], **PERMISSIONS)
    with containers(crun, HUNDRED, "h") as pids, Exporter(daemon, ALICE) as exporter:
        exporter.shows(*(f"crun:{name}" for name in pids))

        def ratio() -> float:
            rows = {
                "the scrape, from request to answer": median(exporter.fetch),
                f"root reads {', '.join(FILES)}": median(lambda: read_all(pids, FILES)),
                "root reads them without tcp, tcp6": median(lambda: read_all(pids, FILES[:-2])),
            }
            before = processor_time(exporter.pid)
            for _ in range(TRIES):
                exporter.fetch()
            rows["processor time of a scrape"] = (processor_time(exporter.pid) - before) / TRIES
            print(f"\n{HUNDRED} containers, {len(exporter.fetch().splitlines())} lines, medians of {TRIES}:")
            for what, seconds in rows.items():
                print(f"{1000 * seconds:8.1f} ms  {what}")
            first, second, *_ = rows.values()
            print(f"{first / second:8.2f}     of what reading all files takes (at most 2)")
            return first / second

        check_below(2, ratio, "a scrape, of the time that reading the files takes")


def median(work: Callable[[], object]) -> float:
    times = []
    for _ in range(TRIES):
        began = time.monotonic()
        work()
        times.append(time.monotonic() - began)
    return statistics.median(times)


def read_all(pids: dict[str, int], names: tuple[str, ...]) -> int:
    return sum(len(Path(f"/proc/{pid}/net/{name}").read_bytes()) for pid in pids.values() for name in names)


def processor_time(pid: int) -> float:
    """Return the seconds of processor time that a process has used: fields 14 and 15 of /proc/PID/stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
