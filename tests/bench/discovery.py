"""List compared with lsns(8), and the cost of watching a host on which nothing happens."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from nsbroker.client.blocking import Broker
from nsbroker.errors import ConnectionLost
from tests.bench import broker
from tests.bench.rivals import rounds
from tests.world import Daemon, eventually

_WATCHED = 10.0


class Listed(NamedTuple):
    """Seconds of single runs of the call, of the whole command and of lsns; and the bytes by which the daemon grew."""

    call: list[float]
    command: list[float]
    lsns: list[float]
    grown: int


@contextlib.contextmanager
def crowd(count: int) -> Iterator[None]:
    """Run `count` processes that sleep while the block runs."""
    code = """
import os, signal, sys
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        os.execv("/bin/sleep", ["sleep", "1000"])
signal.pause()
"""
    before = _processes()
    parent = subprocess.Popen([sys.executable, "-c", code, str(count)], start_new_session=True)
    try:
        while _processes() < before + count:
            time.sleep(0.05)
        yield
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()
        # The first process of the machine reaps them, so wait until it has.
        eventually(lambda: _processes() < before + count // 2, "the processes end")


def lists(count: int, turns: int) -> Listed:
    """Measure lists among `count` additional processes.  Raises FileNotFoundError without lsns."""
    lsns = shutil.which("lsns")
    if lsns is None:
        raise FileNotFoundError("lsns")
    found = Listed([], [], [], 0)
    with broker.daemon() as daemon, daemon.connect() as client:
        client.list()
        before = daemon.memory()
        with crowd(count):
            for _ in range(turns):
                found.lsns.extend(_commands([lsns, "--json"], daemon))
                found.call.extend(_calls(client))
                found.command.extend(_commands([sys.executable, "-m", "nsbroker", "ls", "--json"], daemon))
        client.list()
        return found._replace(grown=daemon.memory() - before)


def _calls(client: Broker) -> list[float]:
    return rounds(client.list, 5)


def _commands(command: list[str], daemon: Daemon) -> list[float]:
    environment = {**os.environ, "NSBROKER_ADDRESS": daemon.address}
    return rounds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment), 3)


def watching(count: int) -> float:
    """Return the share of one CPU that the daemon uses for one watch among `count` sleeping processes."""
    with broker.daemon() as daemon, crowd(count), daemon.connect() as client, client.watch() as events:
        for event in events:
            if event.event == "ready":
                break

        def read() -> None:
            with contextlib.suppress(ConnectionLost):
                for _ in events:
                    pass

        reader = threading.Thread(target=read)
        reader.start()
        # By then, the scans that the new processes caused are over.
        time.sleep(1)
        start = _cpu(daemon.pid)
        time.sleep(_WATCHED)
        used = _cpu(daemon.pid) - start
        events.close()
        reader.join()
    return used / _WATCHED


def _cpu(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _processes() -> int:
    return sum(name.isdigit() for name in os.listdir("/proc"))
