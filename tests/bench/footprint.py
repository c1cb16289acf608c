"""What the daemon takes when nobody asks: memory, per connection too, and the time until its first reply."""

import contextlib
import functools
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.bench import versions
from tests.bench.pace import Tally, turns
from tests.bench.table import NOW, LeftOut, Measure, Row, at_most, left_out, milli, plain
from tests.bench.versions import CHECKOUT, Broker, Version
from tests.bench.wire import Line, call

_IMPORTS = "import trio, msgspec"
_BESIDE = f"of `{_IMPORTS}`"
_IDLE = 500
_CALLS = 100
_WHO_AM_I = call("WhoAmI")


def memory(found: Mapping[str, Version], pid: int) -> list[Row]:
    """Measure the memory of an idle daemon, and of each of many idle connections, and how much these slow calls down."""
    code = f"{_IMPORTS}; print(open('/proc/self/statm').read().split()[1])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    bare = int(output) * os.sysconf("SC_PAGESIZE")
    idle, each, slower = {}, {}, {}
    for name, version in found.items():
        with versions.serve(version, pid) as broker, Line(broker.server.path) as line:
            line.ask(_WHO_AM_I)
            at_first = broker.memory()
            line.check(broker.server.call, 1)
            alone, crowded = Tally(), Tally()
            _call(broker, line, alone)
            before = broker.memory()
            with contextlib.ExitStack() as stack:
                for _ in range(_IDLE):
                    # After one call, a connection has allocated all that it will allocate.
                    stack.enter_context(Line(broker.server.path)).ask(_WHO_AM_I)
                grown = broker.memory() - before
                _call(broker, line, crowded)
            _call(broker, line, alone)
        idle[name] = Measure(f"{at_first / 1e6:.1f} MB", at_first / bare)
        each[name] = Measure(f"{grown / _IDLE / 1e3:.1f} kB", grown / _IDLE / 10_000)
        slower[name] = crowded.spent(alone)
    return [
        plain(f"memory: `{_IMPORTS}`", f"{bare / 1e6:.1f} MB"),
        Row("memory: nsbroker, idle", idle, _BESIDE, at_most(1.25)),
        Row("memory: each idle connection", each, "of 10 kB", at_most(1)),
        Row(f"CPU of an Open beside {_IDLE} idle connections", slower, "of beside none", at_most(1.1)),
    ]


def _call(broker: Broker, line: Line, tally: Tally) -> None:
    for _ in range(10):
        tally.measure(broker.pid, _CALLS, functools.partial(line.one_by_one, broker.server.call, _CALLS))


def start(found: Mapping[str, Version], pid: int) -> list[Row]:
    """Measure the time from starting the daemon to its first reply."""
    bare: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in turns(5):
        bare.append(bare_start())
        for name, version in found.items():
            times[name].append(_first_reply(version))
    beside = statistics.median(bare)
    measures = {name: Measure(milli(statistics.median(taken)), statistics.median(taken) / beside) for name, taken in times.items()}
    return [
        plain(f"start: `{_IMPORTS}`", milli(beside)),
        Row("start: nsbroker, spawn to first reply", measures, _BESIDE, at_most(1.25)),
    ]


def bare_start() -> float:
    """Return the seconds that an interpreter needs to import trio and msgspec and exit."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", _IMPORTS], check=True)
    return time.perf_counter() - start


def _first_reply(version: Version) -> float:
    """Return the seconds from starting the daemon, with a socket passed as systemd does, to the first reply."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/socket")
        listener.listen()
        # The variables name the process that the socket is for, so only that process can set them.
        code = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); "
            "os.execv(sys.argv[2], sys.argv[2:])"
        )
        fd = listener.fileno()
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", code, str(fd), *version.command("serve")],
            pass_fds=[fd],
            stderr=subprocess.DEVNULL,
            env=version.environment(),
            cwd="/",
        )
        try:
            with Line(Path(folder, "socket")) as line:
                line.ask(_WHO_AM_I)
            return time.perf_counter() - start
        finally:
            process.terminate()
            process.wait()


def on_demand(found: Mapping[str, Version], pid: int) -> list[Row]:
    """Measure the time from the first connection to the reply in a booted systemd, beside an interpreter's start there."""
    work = "start: on demand, connection to first reply"
    if shutil.which("systemd-nspawn") is None:
        return [left_out(work, "systemd-nspawn is missing")]
    # Only this checkout's command is installed, so only its units can be.
    command = [str(CHECKOUT / "tests/boot-systemd"), sys.executable, "-m", "tests.bench.demand"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LeftOut(f"tests/boot-systemd failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    first, bare = json.loads(done.stdout.splitlines()[-1])
    return [Row(work, {NOW: Measure(milli(first), first / bare)}, _BESIDE, at_most(1.3, 1.2))]
