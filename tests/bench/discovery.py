"""List compared with lsns(8), and the cost of watching a host on which nothing happens."""

import contextlib
import functools
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping

from tests.bench import versions
from tests.bench.pace import CpuTime, rounds, turns
from tests.bench.table import Goal, LeftOut, Measure, Row, at_most, left_out, milli, plain
from tests.bench.versions import Broker, Version
from tests.bench.wire import Line, call

_WATCHED = 3.0
_LIST = call("List", more=True)
_WATCH = call("Watch", more=True)
# The crowd's parent.  All children hold the pipe until they execute /bin/sleep.  The parent kills and reaps them when its standard
# input ends, so nobody has to count processes, of which others may start and end meanwhile.
_CROWD = """
import os, signal, sys
read, write = os.pipe()
children = []
try:
    for _ in range(int(sys.argv[1])):
        child = os.fork()
        if child == 0:
            os.execv("/bin/sleep", ["sleep", "1000"])
        children.append(child)
    os.close(write)
    os.read(read, 1)
    print("ready", flush=True)
    sys.stdin.read()
finally:
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
"""


@contextlib.contextmanager
def crowd(count: int) -> Iterator[None]:
    """Run `count` processes that sleep while the block runs.  Raises LeftOut if that many cannot be started."""
    command = [sys.executable, "-c", _CROWD, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        try:
            if not parent.stdout.readline():
                raise LeftOut(f"{count} processes cannot be started here")
            yield
        finally:
            # This closes its standard input, and waits for its end.
            parent.communicate()


def lists(count: int, seconds: float, goal: Goal, found: Mapping[str, Version], pid: int) -> list[Row]:
    """Measure lists among `count` additional processes."""
    work = f"List among {count} processes more"
    lsns = shutil.which("lsns")
    theirs: list[float] = []
    calls: dict[str, list[float]] = {name: [] for name in found}
    commands: dict[str, list[float]] = {name: [] for name in found}
    with versions.serve_all(found) as brokers, contextlib.ExitStack() as stack:
        lines = {name: stack.enter_context(Line(broker.server.path)) for name, broker in brokers.items()}
        for line in lines.values():
            line.stream(_LIST)
        before = {name: broker.memory() for name, broker in brokers.items()}
        with crowd(count):
            for _ in turns(seconds):
                if lsns is not None:
                    # Its exit status is not 0 when a process ends meanwhile.
                    theirs += rounds(lambda: subprocess.run([lsns, "--json"], check=False, stdout=subprocess.DEVNULL), 1)
                for name, broker in brokers.items():
                    # The first one finds what the last lsns has changed.
                    calls[name] += rounds(functools.partial(lines[name].stream, _LIST), 2)
                    commands[name] += rounds(functools.partial(_run_ls, broker), 1)
        for line in lines.values():
            line.stream(_LIST)
        grown = {name: Measure(f"{(broker.memory() - before[name]) / 1e6:.1f} MB") for name, broker in brokers.items()}
    beside = statistics.median(theirs) if theirs else None
    return [
        plain(f"{work}: lsns", milli(beside)) if beside else left_out(f"{work}: lsns", "lsns is missing"),
        Row(f"{work}: the call", _measures(calls, beside), "of lsns", goal),
        Row("  as a command: nsbroker ls", _measures(commands, beside), "of lsns"),
        Row("  memory kept afterwards", grown),
    ]


def _measures(times: Mapping[str, list[float]], beside: float | None) -> dict[str, Measure]:
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {name: Measure(milli(median), median / beside if beside else None) for name, median in medians.items()}


def _run_ls(broker: Broker) -> None:
    command, environment = broker.version.command("ls", "--json"), broker.version.environment(NSBROKER_ADDRESS=broker.address)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment, cwd="/")


def watches(count: int, found: Mapping[str, Version], pid: int) -> list[Row]:
    """Measure the share of one CPU that the daemon uses for one watch among `count` additional processes that sleep."""
    measures = {}
    with crowd(count):
        for name, version in found.items():
            with versions.serve(version) as broker, Line(broker.server.path) as line:
                measures[name] = Measure(f"{_watch(broker, line):.2%} of a CPU")
    return [Row(f"an idle watch among {count} processes more", measures)]


def _watch(broker: Broker, line: Line) -> float:
    sock = line.sock
    sock.sendall(_WATCH)
    ready = threading.Event()

    def read() -> None:
        last = b""
        with contextlib.suppress(OSError):
            while piece := sock.recv(1 << 16):
                # The word may arrive in two pieces.
                if b'"ready"' in last[-10:] + piece:
                    ready.set()
                last = piece

    reader = threading.Thread(target=read)
    reader.start()
    try:
        if not ready.wait(20):
            raise LeftOut("the watch did not begin")
        # By then, the scans that the new processes caused are over.
        time.sleep(1)
        start = CpuTime.of(broker.pid).total
        time.sleep(_WATCHED)
        return (CpuTime.of(broker.pid).total - start) / _WATCHED
    finally:
        with contextlib.suppress(OSError):
            sock.shutdown(2)
        reader.join()


def lists_1000(found: Mapping[str, Version], pid: int) -> list[Row]:
    """Measure lists among 1000 processes."""
    return lists(1000, 5, at_most(0.7, 0.5), found, pid)


def lists_5000(found: Mapping[str, Version], pid: int) -> list[Row]:
    """Measure lists among 5000 processes."""
    return lists(5000, 5, at_most(0.4, 0.3), found, pid)
