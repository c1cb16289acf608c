"""Run all attacks against one daemon, or each against its own daemon, while an innocent user and root keep calling it.

usage: python -m tests.soak [--plain] [--table] [--minutes N] [--at-once N] [--seconds N] [--attack NAME,NAME...]
"""

import argparse
import contextlib
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nsbroker.cli.output import print_table
from tests.soak import attacks, crew
from tests.soak.attacks import ATTACKS, Attack
from tests.soak.clients import Clients, Sample, delayed, percentile
from tests.soak.crew import Worker
from tests.soak.report import TIMES_HEAD, WHOS, Criterion, Tally, describe, late, milli, print_result, times
from tests.soak.scene import Host, Measure, PlainHost, Scene, UnitHost, measure_least, scene
from tests.soak.shifts import SECONDS, Shifts

RATIO = 20.0
GROWTH = 8 * 1024 * 1024
_WARM = 2.0
_CALM = 3.0
_IDLE = 30.0
# The attacks pause so often, for so long, and by then everything that they began is over.
_PAUSE_EVERY = 240.0
_PAUSE = 15.0
_DRAIN = 5.0
_SETTLE = 20.0
_TRIES = 4
_LATE = 0.005
_AFTER = 1.0
# By then, each attack has run once.
_ROUND = 160.0


def say(text: str) -> None:
    """Print a line, and flush it."""
    print(text, flush=True)


@contextlib.contextmanager
def host(plain: bool) -> Iterator[Host]:
    """Run the broker, under systemd or (`plain`) by itself."""
    if not plain:
        with UnitHost() as unit:
            yield unit
        return
    with tempfile.TemporaryDirectory() as folder, PlainHost(Path(folder)) as daemon:
        yield daemon


@contextlib.contextmanager
def stage(plain: bool, chosen: Sequence[Attack]) -> Iterator[tuple[Scene, contextlib.ExitStack]]:
    """Set up a broker, its scene, and what the chosen attacks need."""
    with contextlib.ExitStack() as stack:
        # A child inherits the processors of its parent.  The daemon gets all of them; what measures stays off the attackers'.
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        running = stack.enter_context(host(plain))
        os.sched_setaffinity(0, {crew.CLIENTS % (os.cpu_count() or 1)})
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        (folder / "work").mkdir()
        made = stack.enter_context(scene(running, folder / "work", attacks.rules_of(chosen)))
        for attack in chosen:
            attacks.prepare(attack, made, stack)
        yield made, stack


@contextlib.contextmanager
def attackers(chosen: Sequence[Attack], made: Scene) -> Iterator[list[Worker]]:
    """Run the chosen attacks while the block runs."""
    workers: list[Worker] = []
    try:
        for attack in chosen:
            worker = crew.attack(attack.name, attacks.uid_of(attack), attacks.turns_of(attack, made))
            workers.append(worker)
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def listen(clients: Clients, tally: Tally, seconds: float) -> None:
    """Let the clients call for some seconds, and count the results."""
    time.sleep(seconds)
    tally.add(clients.samples())


def describe_leftovers(before: Measure, after: Measure) -> str:
    """Describe what the daemon did not release."""
    if before.pid != after.pid:
        return "it died" if not after.pid else "another process"
    found = [
        f"{now - then:+d} {name}"
        for name, then, now in (("fds", before.fds, after.fds), ("threads", before.threads, after.threads))
        if now > then
    ]
    return ", ".join(found) or "nothing"


def settle(made: Scene, before: Measure) -> Measure:
    """Return the smallest numbers of the daemon after the attackers have gone."""
    for _ in range(_TRIES):
        # Calls that were sent before their callers ended may be executed only now, so release what they hold once more.
        attacks.release(made)
        after = measure_least(made.host, _SETTLE / _TRIES, lambda one: one.fds <= before.fds and one.threads <= before.threads)
        if after.fds <= before.fds and after.threads <= before.threads:
            break
    return after


def warn(idle: Tally) -> None:
    """Print a warning when the machine has other work: then everything takes long, and ratios mean little."""
    if percentile(idle.late, 0.99) > _LATE:
        say(f"BEWARE: this machine is busy with other work (idle, wake-ups are late by {late(idle)}): the ratios are too small")


def table(plain: bool, chosen: Sequence[Attack], seconds: float) -> int:
    """Run each attack alone, against its own daemon, and print a table.  The idle times are measured before each attack."""
    idle = Tally()
    rows: list[_Row] = []
    for number, attack in enumerate(chosen, 1):
        with stage(plain, [attack]) as (made, _), Clients(made) as clients:
            time.sleep(_WARM)
            clients.samples()
            listen(clients, idle, _CALM)
            before = measure_least(made.host, 0.5)
            busy = Tally()
            with attackers([attack], made) as workers:
                start = time.monotonic()
                time.sleep(seconds)
                end = time.monotonic()
                rate = workers[0].counts[0] / (end - start)
                if workers[0].has_ended():
                    say(f"... {attack.name}: the attacker itself has ended")
            after = settle(made, before)
            # Calls that were made during the attack may have got their replies only now.
            busy.add(one for one in clients.samples() if one.at <= end)
            remains = describe_leftovers(before, after) if not attack.booted else "-"
            rows.append(_Row(attack, rate, busy, remains, clients.words(), made.host.faults()))
            say(
                f"... {number} of {len(chosen)}: {attack.name}, {rate:.0f}/s: {describe(busy, 'innocent')}, not right: "
                f"{busy.bad('innocent')}; left behind: {remains}"
            )
    say(f"\nidle: {describe(idle, 'innocent')}")
    say(f"idle: {describe(idle, 'root')}; wake-ups late by {late(idle)} (p99)")
    warn(idle)
    say("")
    head = [
        "attack",
        "done/s",
        *TIMES_HEAD,
        "x idle",
        "not right",
        "root p99",
        "x idle",
        "not right",
        "left behind",
        "faults",
        "late",
    ]
    print_table(head, [_cells(row, idle) for row in rows])
    say("\nTimes are milliseconds; `x idle` is the p99 of all calls, or of plain ones alone, of that without attacks.")
    say("Attackers share processor 0, clients processor 1; the daemon has both.  `late`: p99 by which the kernel woke the clients.")
    for row in rows:
        for line in (*row.words[:3], *row.faults[:3]):
            say(f"{row.attack.name}: {line[:220]}")
    return print_result([Criterion(row.attack.name, "", "", row.is_good(idle)) for row in rows])


class _Row(NamedTuple):
    """The results of one attack."""

    attack: Attack
    rate: float
    busy: Tally
    remains: str
    words: Sequence[str]
    faults: Sequence[str]

    def is_good(self, idle: Tally) -> bool:
        """Return whether the attack had little effect on others."""
        ratio = self.busy.ratio(idle, "innocent")
        return ratio <= RATIO and _all_right(self.busy) and self.remains in ("nothing", "-") and not self.faults


def _cells(row: _Row, idle: Tally) -> list[str]:
    return [
        row.attack.name + (" (root's)" if row.attack.root else ""),
        f"{row.rate:.0f}",
        *times(row.busy, "innocent"),
        f"{row.busy.ratio(idle, 'innocent'):.1f}",
        row.busy.bad("innocent"),
        milli(row.busy.at("root", "open", 0.99)),
        f"{row.busy.ratio(idle, 'root'):.1f}",
        row.busy.bad("root"),
        row.remains,
        str(len(row.faults)),
        late(row.busy),
    ]


def _all_right(tally: Tally) -> bool:
    return all(tally.bad(who) == "0" for who in WHOS)


class Memory:
    """Measures by how much the daemon's memory grows in the last quarter of its life.

    Medians are compared, because single peaks depend on what happens to come together.  The beginning does not count: until each
    attack has run once, the allocator still gets memory that it keeps.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._pid = 0
        self._found: list[tuple[float, int]] = []

    def look(self, now: Measure | None) -> None:
        """Take a measure into account; call it about once a second."""
        if now is None:
            return
        self.peak = max(self.peak, now.memory)
        if now.pid != self._pid:
            self._pid, self._found = now.pid, []
        self._found.append((time.monotonic(), now.memory))

    def growth(self) -> float | None:
        """Return the growth in bytes; None if no daemon lived long enough for each attack to run once before."""
        if not self._found:
            return None
        (start, _), (end, _) = self._found[0], self._found[-1]
        quarter = end - (end - start) / 4
        before = [memory for at, memory in self._found if start + _ROUND <= at < quarter]
        if not before:
            return None
        return statistics.median(memory for at, memory in self._found if at >= quarter) - statistics.median(before)


def soak(plain: bool, chosen: Sequence[Attack], minutes: float, at_once: int) -> int:
    """Run all attacks against one daemon: root's own work all the time, and the attacks of `at_once` users in turn."""
    with stage(plain, chosen) as (made, _), Clients(made) as clients:
        made.alone = len(chosen) == 1
        time.sleep(_WARM)
        clients.samples()
        idle, busy, meanwhile, memory = Tally(), Tally(), Tally(), Memory()
        listen(clients, idle, _IDLE)
        before = measure_least(made.host, 1.0)
        say(f"idle: {describe(idle, 'innocent')}")
        say(f"idle: {describe(idle, 'root')}; wake-ups late by {late(idle)} (p99)")
        warn(idle)
        say(f"idle: {before.fds} fds, {before.threads} threads, {before.memory / 2**20:.1f} MiB")
        start = time.monotonic()
        half, end = start + minutes * 30, start + minutes * 60
        with Shifts(chosen, made, at_once) as shifts:
            samples = _attack(made, clients, shifts, memory, idle, (start, half))
            # The daemon is not restarted in the second half, which shows what happens in a long life.
            shifts.end("restarts")
            samples += _attack(made, clients, shifts, memory, idle, (start, end))
        after = settle(made, before)
        # Calls that were made during the attacks may have got their replies only now.
        samples += [one for one in clients.samples() if one.at <= end]
        interrupted = delayed(samples, [(begun - _AFTER, over + _AFTER) for begun, over in made.interruptions()])
        apart = set(map(id, interrupted))
        busy.add(one for one in samples if id(one) not in apart)
        meanwhile.add(interrupted)
        faults = made.host.faults()
        words = clients.words()
    say("")
    print_table(
        ["attack", "done", "broken off", ""],
        [[name, done, failed, "has ended" if gone else ""] for name, done, failed, gone in shifts.totals()],
    )
    for line in [*words[:20], *faults[:10]]:
        say(f"error: {line[:220]}")
    say("")
    say("calls that wait for a restart or a stop of the journal are timed separately (interrupted), but they count for the verdict")
    for name, tally in (("idle", idle), ("attacked", busy), ("interrupted", meanwhile)):
        for who in WHOS:
            say(f"{name}: {describe(tally, who)}; {tally.count(who, 'right')} right, not right: {tally.bad(who)}")
        say(f"{name}: wake-ups late by {late(tally)} (p99); calls repeated because the broker hung up: {tally.again}")
    say(f"memory: {before.memory / 2**20:.1f} MiB idle, {memory.peak / 2**20:.1f} at most, {after.memory / 2**20:.1f} at the end\n")
    criteria = _verdict(idle, busy, meanwhile, before, after, memory, faults)
    print_table(
        ["criterion", "limit", "found", ""], [[one.what, one.limit, one.found, "yes" if one.met else "NO"] for one in criteria]
    )
    if memory.growth() is None:
        # Restarts go on until the middle of a run.
        needed = _ROUND * 4 / 3 * (2 if any(one.name == "restarts" for one in chosen) else 1)
        say(f"memory: not measured (needs {needed:.0f} s)")
    return print_result(criteria)


def _attack(made: Scene, clients: Clients, shifts: Shifts, memory: Memory, idle: Tally, span: tuple[float, float]) -> list[Sample]:
    """Attack until the end of the span.  Now and then everybody pauses, and what is measured then is added to `idle`.

    So whatever else the machine does at times changes both sides of the ratio.  Returns all other calls of the clients.
    """
    start, end = span
    found = _watch(made, clients, shifts, memory, (start, min(end, time.monotonic() + _PAUSE_EVERY)))
    while time.monotonic() < end:
        with shifts.paused():
            time.sleep(_DRAIN)
            found += clients.samples()
            listen(clients, idle, _PAUSE)
        found += _watch(made, clients, shifts, memory, (start, min(end, time.monotonic() + _PAUSE_EVERY)))
    return found


def _watch(made: Scene, clients: Clients, shifts: Shifts, memory: Memory, span: tuple[float, float]) -> list[Sample]:
    """Print a line for each shift until the end of the span.  Returns all calls that the clients recorded."""
    start, end = span
    found: list[Sample] = []
    window, since = Tally(), time.monotonic()
    while (now := time.monotonic()) < end:
        time.sleep(min(1.0, end - now))
        pid = made.host.pid
        measure = Measure.of(pid) if pid else None
        memory.look(measure)
        samples = clients.samples()
        window.add(samples)
        found += samples
        if time.monotonic() - since >= SECONDS:
            holds = f"{measure.fds} fds, {measure.threads} threads, {measure.memory / 2**20:.0f} MiB" if measure else "no daemon"
            bad = f"not right: {window.bad('innocent')}, root's: {window.bad('root')}"
            say(f"{time.monotonic() - start:5.0f} s  {describe(window, 'innocent')}; {bad}; {holds}")
            say(f"         {' '.join(shifts.names())}")
            window, since = Tally(), time.monotonic()
        shifts.change()
    return found


def _verdict(
    idle: Tally, busy: Tally, meanwhile: Tally, before: Measure, after: Measure, memory: Memory, faults: Sequence[str]
) -> Sequence[Criterion]:
    found = []
    for who in WHOS:
        ratio = busy.ratio(idle, who)
        met = not math.isnan(ratio) and ratio <= RATIO
        found.append(Criterion(f"p99 of {who}'s calls, all and plain ones, of idle", f"<= {RATIO:g}", f"{ratio:.1f}", met))
        right = busy.count(who, "right") + meanwhile.count(who, "right")
        bad = f"{busy.bad(who)}, {meanwhile.bad(who)}" if meanwhile.bad(who) != "0" else busy.bad(who)
        found.append(Criterion(f"{who}'s calls refused, wrong or lost", "0", f"{bad} of {right}", right > 0 and bad == "0"))
    lives = after.pid != 0
    found.append(Criterion("fds when all have gone", f"<= {before.fds}", str(after.fds), lives and after.fds <= before.fds))
    found.append(
        Criterion(
            "threads when all have gone", f"<= {before.threads}", str(after.threads), lives and after.threads <= before.threads
        )
    )
    if (growth := memory.growth()) is not None:
        what = "memory, in the last quarter of the daemon's life"
        found.append(Criterion(what, f"<= {GROWTH / 2**20:.0f} MiB more", f"{growth / 2**20:.1f} MiB", growth <= GROWTH))
    found.append(Criterion("faults that the daemon logged", "0", str(len(faults)), not faults))
    return found


def main() -> int:
    """Parse the arguments and run the attacks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--plain", action="store_true", help="run `nsbroker serve` without systemd")
    parser.add_argument("--table", action="store_true", help="run each attack alone and print a table")
    parser.add_argument("--minutes", type=float, default=10.0, help="run all attacks for N minutes (default: 10)")
    parser.add_argument("--at-once", type=int, default=2, help="let N users attack at once, each for ten seconds (default: 2)")
    parser.add_argument("--seconds", type=float, default=20.0, help="with --table, run each attack for N seconds (default: 20)")
    parser.add_argument("--attack", default="", help="run only these attacks, separated by commas")
    options = parser.parse_args()
    names = [name for name in options.attack.split(",") if name]
    if unknown := set(names) - {one.name for one in ATTACKS}:
        parser.error(f"no such attack: {', '.join(sorted(unknown))}; there are {', '.join(one.name for one in ATTACKS)}")
    if os.geteuid() != 0 or "NSBROKER_PRIVATE_HOST" not in os.environ:
        parser.error("this needs root and a private host: use `make soak` or `make attack-table`")
    chosen = [one for one in ATTACKS if (one.name in names or not names) and not (options.plain and one.booted)]
    say(f"attackers share processor {crew.ATTACKERS}, clients processor {crew.CLIENTS}; the daemon may use both")
    if options.table:
        return table(options.plain, chosen, options.seconds)
    return soak(options.plain, chosen, options.minutes, options.at_once)


if __name__ == "__main__":
    sys.exit(main())
