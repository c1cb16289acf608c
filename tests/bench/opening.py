"""Namespaces and sockets opened by number: what each call costs, beside the same call to other servers."""

import contextlib
import functools
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

from tests.bench import rivals, versions
from tests.bench.pace import Tally, rounds, turns
from tests.bench.rivals import BARE, GO, Server
from tests.bench.table import Goal, LeftOut, Measure, Row, at_least, at_most, left_out, micro, plain
from tests.bench.versions import Broker, Version
from tests.bench.wire import TYPES, Line, open_call, socket_call

_C = "C pair"
_DIRECT = "/proc, no broker"
_DEPTH = 32

Tallies = dict[str, Tally]


class _Contest:
    """Servers that take turns, with a connection to each.  `rivals` are their tallies by name, `ours` those by version."""

    def __init__(self, brokers: Mapping[str, Server], running: Mapping[str, Server], missing: Mapping[str, str]) -> None:
        self._servers = {**running, **brokers}
        self._lines: dict[str, Line] = {}
        self.ours: Tallies = {name: Tally() for name in brokers}
        self.rivals: Tallies = {name: Tally() for name in running}
        self.missing = dict(missing)

    def connect(self, stack: contextlib.ExitStack, fds: int) -> None:
        """Connect to each server and warm it up with calls, to which it replies with that many fds."""
        for name, server in self._servers.items():
            self._lines[name] = stack.enter_context(Line(server.path))
            self._lines[name].check(server.call, fds)

    def turn(self, calls: int, work: Callable[[Line, bytes], list[float]]) -> None:
        """Let each server have its turn: `work` makes that many calls over a connection."""
        for name, tally in {**self.rivals, **self.ours}.items():
            line, server = self._lines[name], self._servers[name]
            tally.measure(server.pid, calls, functools.partial(work, line, server.call))

    def rows(self, work: str) -> list[Row]:
        """Return the rows of the rivals."""
        found = [plain(f"{work}: {name}", tally.text()) for name, tally in self.rivals.items()]
        return found + [left_out(f"{work}: {name}", why) for name, why in self.missing.items()]

    def time(self, work: str, beside: str, goal: Goal | None) -> Row:
        """Return the row of the time of nsbroker's calls, compared with those of a rival."""
        other = self.rivals.get(beside)
        return Row(work, {name: tally.timed(other) for name, tally in self.ours.items()}, f"of {beside}", goal)

    def cpu(self, goal: Goal) -> Row:
        """Return the row of nsbroker's CPU time of a call, compared with that of the bare server."""
        bare = self.rivals.get(BARE)
        return Row("  its CPU", {name: tally.spent(bare) for name, tally in self.ours.items()}, f"of {BARE}", goal)


@contextlib.contextmanager
def _contest(found: Mapping[str, Version], pid: int, names: Sequence[str], *types: str) -> Iterator[_Contest]:
    """Run all versions of nsbroker and the rivals with these names; each call opens these namespaces (default: net)."""
    with versions.serve_all(found, pid) as brokers, rivals.start(pid, names) as (running, missing):
        ours = {name: broker.server for name, broker in brokers.items()}
        if types:
            ours, running = (_calling(open_call(pid, *types), servers) for servers in (ours, running))
        with contextlib.ExitStack() as stack:
            contest = _Contest(ours, running, missing)
            contest.connect(stack, len(types) or 1)
            yield contest


@contextlib.contextmanager
def _contest_alone(brokers: Mapping[str, Broker], call: bytes = b"") -> Iterator[_Contest]:
    """Let running brokers take turns, with another call than theirs if one is given."""
    servers = {name: broker.server for name, broker in brokers.items()}
    with contextlib.ExitStack() as stack:
        contest = _Contest(_calling(call, servers) if call else servers, {}, {})
        contest.connect(stack, 1)
        yield contest


def _calling(call: bytes, servers: Mapping[str, Server]) -> dict[str, Server]:
    return {name: server._replace(call=call) for name, server in servers.items()}


def one_by_one(found: Mapping[str, Version], pid: int) -> list[Row]:
    """Measure calls one after the other."""
    count, work = 200, "one by one"
    pair = Tally()
    direct: list[float] = []
    with _contest(found, pid, [BARE, GO, rivals.ASYNCVARLINK]) as contest:
        for _ in turns(7):
            contest.turn(count, lambda line, call: line.one_by_one(call, count))
            direct += rounds(lambda: os.close(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)), count)
            if _C not in contest.missing:
                try:
                    rivals.c_pair(pid, 2 * count, pair)
                except LeftOut as error:
                    contest.missing[_C] = str(error)
    if _C not in contest.missing:
        contest.rivals[_C] = pair
    return [
        plain(f"{work}: {_DIRECT}", micro(statistics.median(direct))),
        *contest.rows(work),
        contest.time(f"{work}: nsbroker", BARE, at_most(1.25, 1.1)),
        contest.cpu(at_most(1.8, 1.4)),
    ]


def pipelined(found: Mapping[str, Version], pid: int) -> list[Row]:
    """Measure calls of which many are in flight."""
    count, work = 640, f"{_DEPTH} in flight"
    with _contest(found, pid, [BARE, GO]) as contest:
        for _ in turns(7):
            contest.turn(count, lambda line, call: line.in_flight(call, _DEPTH, count))
    return [*contest.rows(work), contest.time(f"{work}: nsbroker", GO, at_most(1.3, 0.9)), contest.cpu(at_most(2.5, 1.8))]


def eight_types(found: Mapping[str, Version], pid: int) -> list[Row]:
    """Measure calls that open all types at once."""
    count, work = 200, "eight types, 4 in flight"
    with _contest(found, pid, [BARE, GO], *TYPES) as contest:
        for _ in turns(5):
            contest.turn(count, lambda line, call: line.in_flight(call, 4, count))
    return [*contest.rows(work), contest.time(f"{work}: nsbroker", GO, None), contest.cpu(at_most(2.0, 1.5))]


def sockets(found: Mapping[str, Version], pid: int) -> list[Row]:
    """Measure a socket that is made inside, beside an Open of the network that it is made in."""
    count = 100
    with (
        versions.serve_all(found, pid) as brokers,
        _contest_alone(brokers) as opened,
        _contest_alone(brokers, socket_call(pid)) as made,
    ):
        for _ in turns(4):
            for contest in (opened, made):
                contest.turn(count, lambda line, call: line.one_by_one(call, count))
    times = {name: tally.timed(opened.ours[name]) for name, tally in made.ours.items()}
    costs = {name: tally.spent(opened.ours[name]) for name, tally in made.ours.items()}
    return [Row("OpenSocket", times, "of Open", at_most(1.5, 1.2)), Row("  its CPU", costs, "of Open")]


def clients(found: Mapping[str, Version], pid: int) -> list[Row]:
    """Measure what programs get that use the client library, beside the client that only sends bytes."""
    count = 320
    raw: Tallies = {name: Tally() for name in found}
    tasks: Tallies = {name: Tally() for name in found}
    blocking: Tallies = {name: Tally() for name in found}
    with versions.serve_all(found, pid) as brokers, contextlib.ExitStack() as stack:
        lines = {name: stack.enter_context(Line(broker.server.path)) for name, broker in brokers.items()}
        shared = {name: stack.enter_context(broker.client(pid, "tasks")) for name, broker in brokers.items()}
        single = {name: stack.enter_context(broker.client(pid, "blocking")) for name, broker in brokers.items()}
        for name, broker in brokers.items():
            shared[name].run(_DEPTH)
            single[name].run(_DEPTH)
            lines[name].check(broker.server.call, 1)
        for _ in turns(6):
            for name, broker in brokers.items():
                raw[name].add(lines[name].in_flight(broker.server.call, _DEPTH, count), 0, 0, 0)
                tasks[name].add(shared[name].run(count), 0, 0, 0)
                blocking[name].add(single[name].run(count), 0, 0, 0)
    rates = {name: Measure(f"{1 / tally.time:,.0f} calls/s", raw[name].time / tally.time) for name, tally in tasks.items()}
    return [
        Row("32 tasks on one trio client", rates, "of the raw client's calls/s", at_least(0.6, 0.8)),
        Row("one by one, blocking client", {name: tally.timed(None) for name, tally in blocking.items()}),
    ]


def many_rules(found: Mapping[str, Version], pid: int) -> list[Row]:
    """Measure the cost of rules that do not match."""
    count = 200
    with (
        versions.serve_all(found, pid) as small,
        versions.serve_all(found, pid, 1000) as large,
        _contest_alone(small) as few,
        _contest_alone(large) as many,
    ):
        for _ in turns(4):
            for contest in (few, many):
                contest.turn(count, lambda line, call: line.one_by_one(call, count))
    measures = {name: tally.spent(few.ours[name]) for name, tally in many.ours.items()}
    return [Row("CPU of an Open with 1 000 rules", measures, "of 1 rule", at_most(1.1))]
