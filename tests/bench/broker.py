"""The measurements of nsbroker itself: a real daemon with a policy and with audit records."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from nsbroker.client.blocking import Broker, connect
from nsbroker.linux import ancillary
from tests.bench.rivals import rounds
from tests.world import Daemon, eventually

TYPES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
_RULE = '[[allow]]\nname = "r{0}"\nwho = "everyone"\ntargets = ["name:net-{0}-*", "pid:{1}"]\nnamespaces = ["net"]\n'


@contextlib.contextmanager
def daemon(rules: int = 1) -> Iterator[Daemon]:
    """Run a daemon with `rules` rules; the rule that allows everything is the last one."""
    with tempfile.TemporaryDirectory() as folder:
        running = Daemon(Path(folder), limits="connections = 2000")
        if rules > 1:
            main = running.config / "nsbroker.toml"
            others = "".join(_RULE.format(number, 3_000_000 + number) for number in range(rules - 1))
            main.write_text(others + main.read_text())
        with running:
            yield running


def one_by_one(broker: Broker, pid: int, count: int) -> list[float]:
    """Open and close one namespace, `count` times.  Returns the seconds of each time."""
    target = f"pid:{pid}"
    return rounds(lambda: broker.open(target, "net").close(), count)


def in_flight(running: Daemon, pid: int, types: tuple[str, ...], depth: int, count: int) -> list[float]:
    """Return the seconds per call with `depth` calls in flight on one connection, measured eleven times."""
    request = {"method": "io.nsbroker.Broker.Open", "parameters": {"target": {"pid": pid}, "types": types}}
    data = msgspec.json.encode(request) + b"\0"
    buffer = memoryview(bytearray(65536))

    def burst(sock: socket.socket) -> float:
        start = time.perf_counter()
        sent = answered = 0
        while answered < count:
            more = min(depth - (sent - answered), count - sent)
            if more:
                sock.sendall(data * more)
                sent += more
            size, fds = ancillary.receive_into(sock, buffer)
            ancillary.close_all(fds)
            answered += bytes(buffer[:size]).count(0)
        return (time.perf_counter() - start) / count

    with running.raw() as sock:
        burst(sock)
        return [burst(sock) for _ in range(11)]


def with_idle_connections(running: Daemon, pid: int, idle: int, count: int) -> tuple[list[float], list[float], float]:
    """Return the seconds of calls without and with `idle` silent connections, and the bytes of memory for each of these."""
    with running.connect() as broker:
        alone = one_by_one(broker, pid, count)
        before = running.memory()
        quiet = [running.raw() for _ in range(idle)]
        eventually(lambda: (broker.status().connections or 0) > idle, "all are connected")
        # After one call, a connection has allocated all that it will allocate.
        for sock in quiet:
            sock.send(b'{"method":"io.nsbroker.Broker.WhoAmI"}\0')
            sock.recv(1000)
        each = (running.memory() - before) / idle
        crowded = one_by_one(broker, pid, count)
        for sock in quiet:
            sock.close()
    return alone, crowded, each


def idle_memory() -> tuple[int, int]:
    """Return the resident bytes of an idle daemon, and of an interpreter that has only imported trio and msgspec."""
    code = "import trio, msgspec; print(open('/proc/self/statm').read().split()[1])"
    bare = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    with daemon() as running:
        with running.connect() as broker:
            broker.who_am_i()
        return running.memory(), int(bare) * os.sysconf("SC_PAGESIZE")


def first_reply() -> float:
    """Return the seconds from starting the daemon, with a socket passed as systemd does, to the first reply."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/socket")
        listener.listen()
        code = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); "
            "os.execv(sys.executable, [sys.executable, '-m', 'nsbroker', 'serve'])"
        )
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", code, str(listener.fileno())], pass_fds=[listener.fileno()], stderr=subprocess.DEVNULL
        )
        with connect(f"unix:{folder}/socket", timeout=20) as broker:
            broker.who_am_i()
        taken = time.perf_counter() - start
        process.terminate()
        process.wait()
    return taken


def on_demand() -> tuple[float, float]:
    """Return the seconds from the first connection to the reply in a booted systemd, and those of `bare_start` there.

    Raises FileNotFoundError where no systemd can be booted.
    """
    if shutil.which("systemd-nspawn") is None:
        raise FileNotFoundError("systemd-nspawn")
    boot = Path(__file__).parent.parent / "boot-systemd"
    output = subprocess.run([boot, sys.executable, "-m", "tests.bench.demand"], capture_output=True, text=True, check=True).stdout
    first, bare = json.loads(output.splitlines()[-1])
    return first, bare


def bare_start() -> float:
    """Return the seconds that an interpreter needs to import trio and msgspec and exit."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import trio, msgspec"], check=True)
    return time.perf_counter() - start
