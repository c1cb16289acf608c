"""Print one table.  Each row has a median, a ratio (mostly to the pair of C processes), and the goal."""

import compileall
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from nsbroker.cli.output import print_table
from tests.bench import broker, containers, discovery, rivals, sockets
from tests.world import Sleeper

ROUNDS = 3
_COUNT = 3000
_POURED = 1 << 29


class Row(NamedTuple):
    """One line of the table.  `met` is None where there is no goal."""

    work: str
    measured: str
    ratio: str
    goal: str
    met: bool | None


def say(text: str) -> None:
    """Print progress to standard error."""
    print(f"... {text}", file=sys.stderr, flush=True)


def milli(seconds: Sequence[float]) -> str:
    """Format the median in milliseconds."""
    return f"{statistics.median(seconds) * 1e3:.1f} ms"


def micro(seconds: float) -> str:
    """Format seconds as microseconds."""
    return f"{seconds * 1e6:.1f} us"


def single_calls(pid: int) -> list[Row]:
    """Measure one fd per call, compared with the others.  Rounds are interleaved, so disturbances affect all alike."""
    times: dict[str, list[float]] = {"C pair": [], "asyncvarlink pair": [], "/proc, no broker": [], "nsbroker": []}
    with broker.daemon() as running, running.connect() as client:
        for number in range(ROUNDS):
            say(f"one fd per call, round {number + 1} of {ROUNDS}")
            times["C pair"] += rivals.c_pair(pid, _COUNT)
            times["nsbroker"] += broker.one_by_one(client, pid, _COUNT)
            times["asyncvarlink pair"] += rivals.asyncvarlink_pair(pid, _COUNT // 3)
            times["/proc, no broker"] += rivals.direct(pid, _COUNT)
    median = {name: statistics.median(values) for name, values in times.items()}
    ratio = median["nsbroker"] / median["C pair"]
    faster = median["asyncvarlink pair"] / median["nsbroker"]

    def row(name: str, goal: str = "", met: bool | None = None) -> Row:
        return Row(f"one fd per call: {name}", micro(median[name]), f"{median[name] / median['C pair']:.2f}", goal, met)

    return [
        row("/proc, no broker"),
        row("C pair"),
        row("asyncvarlink pair"),
        row("nsbroker", f"<= 3 x C; >= 5 x asyncvarlink (is {faster:.1f} x)", ratio <= 3 and faster >= 5),
    ]


def throughput(pid: int) -> list[Row]:
    """Measure many fds per call, and many calls in flight."""
    say("all eight types per call")
    with broker.daemon() as running:
        eight = 8 / statistics.median(broker.in_flight(running, pid, broker.TYPES, 4, 1000))
        say("32 calls in flight")
        calls = 1 / statistics.median(broker.in_flight(running, pid, ("net",), 32, 3000))
    return [
        Row("all eight types per call", f"{eight:,.0f} fds/s", "", ">= 100 000 fds/s", eight >= 100_000),
        Row("32 calls in flight", f"{calls:,.0f} calls/s", "", ">= 40 000 calls/s", calls >= 40_000),
    ]


def crowds(pid: int) -> list[Row]:
    """Measure the cost of rules and of idle connections."""
    say("1 against 1000 rules")
    few, many = [], []
    with broker.daemon() as small, broker.daemon(1000) as large, small.connect() as left, large.connect() as right:
        for _ in range(ROUNDS):
            few += broker.one_by_one(left, pid, _COUNT)
            many += broker.one_by_one(right, pid, _COUNT)
    rules = statistics.median(many) / statistics.median(few)
    say("1 against 500 idle connections")
    with broker.daemon() as running:
        alone, crowded, each = broker.with_idle_connections(running, pid, 500, _COUNT)
    idle = statistics.median(crowded) / statistics.median(alone)
    return [
        Row("1000 rules against 1", micro(statistics.median(many)), f"{rules:.2f} of 1 rule", "<= 1.3", rules <= 1.3),
        Row("500 idle connections against 1", micro(statistics.median(crowded)), f"{idle:.2f} of 1", "<= 1.3", idle <= 1.3),
        Row("memory per idle connection", f"{each / 1000:.1f} kB", "", "<= 30 kB", each <= 30_000),
    ]


def by_name() -> list[Row]:
    """Measure opening containers by name.  Engines that are not installed are not measured."""
    rows = []
    comparisons: list[tuple[str, Callable[[], containers.Compared], str, float | None]] = [
        ("docker:web", containers.by_name, "of docker's inspect", None),
        ("crun:c000 among 100", containers.among_many, "of alone", 1.5),
        ("crun:web, docker silent", containers.beside_a_silent_engine, "of without", 1.3),
    ]
    for work, compare, beside, most in comparisons:
        say(work)
        try:
            seconds, other = compare()
        except FileNotFoundError as error:
            rows.append(Row(work, "-", "", f"not measured: {error} is missing", None))
            continue
        ratio = seconds / other
        goal = "" if most is None else f"<= {most}"
        rows.append(Row(work, micro(seconds), f"{ratio:.2f} {beside}", goal, None if most is None else ratio <= most))
    return rows


def into_networks() -> list[Row]:
    """Measure sockets made inside a network, and the ways to a port there."""
    say("sockets made inside")
    made, opened = sockets.opening(ROUNDS)
    rows = [Row("a socket made inside", micro(made), f"{made / opened:.2f} of opening the network", "", None)]
    say("forward, beside socat and a socket inside")
    try:
        ways = sockets.ways(ROUNDS, _POURED)
    except FileNotFoundError as error:
        return [*rows, Row("forward", "-", "", f"not measured: {error} is missing", None)]
    direct, forward, socat = ways["direct"], ways["forward"], ways["socat"]
    rates = [
        ("1 connection", forward.alone, socat.alone, direct.alone),
        ("100 connections", forward.crowd, socat.crowd, direct.crowd),
    ]
    delays = [
        ("a byte there and back", forward.trip, socat.trip, direct.trip),
        ("connecting to first byte", forward.first, socat.first, direct.first),
    ]
    for work, ours, theirs, best in rates:
        ratio = f"{ours / theirs:.2f} of socat, {ours / best:.2f} of direct"
        rows.append(Row(f"forward: {work}", f"{ours / 1e6:,.0f} MB/s", ratio, ">= 0.7 of socat", ours >= 0.7 * theirs))
    for work, ours, theirs, best in delays:
        rows.append(Row(f"forward: {work}", micro(ours), f"{ours / theirs:.2f} of socat, {ours / best:.2f} of direct", "", None))
    return rows


def discoveries() -> list[Row]:
    """Measure List compared with lsns, and an idle watch."""
    rows = []
    for count in (100, 1000, 5000):
        say(f"List and lsns among {count} processes")
        work = f"List among {count} processes"
        try:
            found = discovery.lists(count, ROUNDS)
        except FileNotFoundError as error:
            rows.append(Row(work, "-", "", f"not measured: {error} is missing", None))
            continue
        lsns = statistics.median(found.lsns)
        call, command = statistics.median(found.call) / lsns, statistics.median(found.command) / lsns
        must = count >= 1000
        rows += [
            Row(work, milli(found.call), f"{call:.2f} of lsns", "<= 1.0" if must else "", call <= 1 if must else None),
            Row("  as a command: nsbroker ls", milli(found.command), f"{command:.2f} of lsns", "", None),
            Row("  memory kept afterwards", f"{found.grown / 1e6:.1f} MB", "", "", None),
        ]
    for count in (0, 1000):
        say(f"an idle watch among {count} processes more")
        rows.append(Row(f"an idle watch, {count} processes more", f"{discovery.watching(count):.2%} of a CPU", "", "", None))
    return rows


def footprint() -> list[Row]:
    """Measure memory and start-up time."""
    say("memory, start")
    memory, bare = broker.idle_memory()
    first = statistics.median(broker.first_reply() for _ in range(7))
    start = statistics.median(broker.bare_start() for _ in range(7))
    say("started on demand")
    try:
        demand, there = broker.on_demand()
    except FileNotFoundError as error:
        last = Row("first connection to reply", "-", "", f"not measured: {error} is missing", None)
    else:
        ratio = demand / there
        last = Row("first connection to reply", f"{demand * 1e3:.0f} ms", f"{ratio:.2f} of bare trio", "<= 1.5", ratio <= 1.5)
    return [
        Row("memory, idle", f"{memory / 1e6:.1f} MB", f"{memory / bare:.2f} of bare trio", "<= 36 MB", memory <= 36e6),
        Row("spawn to first reply", f"{first * 1e3:.0f} ms", f"{first / start:.2f} of bare trio", "<= 1.5", first / start <= 1.5),
        last,
    ]


def main() -> None:
    """Measure everything and print the table."""
    # pip compiles what it installs, but a checkout may never have been compiled.
    compileall.compile_dir("nsbroker", quiet=1)
    with Sleeper() as sleeper:
        pid = sleeper.pid
        rows = [*single_calls(pid), *throughput(pid), *crowds(pid), *by_name(), *into_networks(), *discoveries(), *footprint()]
    verdicts = {None: "", True: "met", False: "MISSED"}
    print_table(
        ["WORK", "MEDIAN", "RATIO TO C", "GOAL", ""],
        [(row.work, row.measured, row.ratio, row.goal, verdicts[row.met]) for row in rows],
    )


if __name__ == "__main__":
    main()
