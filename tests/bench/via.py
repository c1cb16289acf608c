"""`nsbroker via`, compared with nsenter as root, in which the same program makes its sockets itself.

The program sends bytes to a server inside, and times its socket(2) calls.  Beside these, a blocking client of this process
calls OpenSocket.
"""

import contextlib
import functools
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping

import nsbroker
from tests.bench import versions
from tests.bench.forward import serving, swallow
from tests.bench.pace import rounds, turns
from tests.bench.table import LeftOut, Measure, Row, at_least, micro, plain
from tests.bench.versions import Version
from tests.world import listen_inside, named_network

_NAME = "bench"
_POURED = 128
_SOCKETS = 300
_PROGRAM = """
import socket, statistics, sys, time
port, pieces, count = map(int, sys.argv[1:])
piece = bytes(1 << 20)
rate = 0.0
for _ in range(5):
    with socket.create_connection(("127.0.0.1", port)) as sock:
        start = time.perf_counter()
        for _ in range(pieces):
            sock.sendall(piece)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)
        rate = max(rate, pieces * len(piece) / (time.perf_counter() - start))
times = []
for _ in range(count):
    start = time.perf_counter()
    sock = socket.socket()
    times.append(time.perf_counter() - start)
    sock.close()
print(rate, statistics.median(times))
"""


def via(found: Mapping[str, Version], pid: int) -> list[Row]:
    """Measure the bytes and the sockets of a program under `nsbroker via`."""
    direct: list[tuple[float, float]] = []
    ours: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    calls: dict[str, list[float]] = {name: [] for name in found}
    with named_network(_NAME), listen_inside(_NAME) as listener, serving(listener, swallow), contextlib.ExitStack() as stack:
        program = [sys.executable, "-c", _PROGRAM, str(listener.getsockname()[1]), str(_POURED), str(_SOCKETS)]
        brokers = {name: stack.enter_context(versions.serve(version)) for name, version in found.items()}
        clients = {name: stack.enter_context(nsbroker.connect(broker.address)) for name, broker in brokers.items()}
        for _ in turns(9):
            direct.append(_run(["nsenter", f"--net=/run/netns/{_NAME}", *program], os.environ))
            for name, version in found.items():
                environment = version.environment(NSBROKER_ADDRESS=brokers[name].address)
                ours[name].append(_run(version.command("via", f"name:{_NAME}", "--", *program), environment))
                calls[name] += rounds(functools.partial(_open_socket, clients[name]), 100)
    rate, made = _summarize(direct)
    rates, times = {}, {}
    for name, values in ours.items():
        our_rate, our_time = _summarize(values)
        call = statistics.median(calls[name])
        rates[name] = Measure(f"{our_rate / 1e6:,.0f} MB/s", our_rate / rate)
        times[name] = Measure(f"{micro(our_time)}, OpenSocket {micro(call)}", our_time / call)
    return [
        plain("via: nsenter as root instead", f"{rate / 1e6:,.0f} MB/s, {micro(made)} a socket"),
        Row("via: bytes", rates, "of nsenter", at_least(0.95, 1.0)),
        Row("via: socket(2)", times, "of OpenSocket by the blocking client"),
    ]


def _open_socket(client: nsbroker.Broker) -> None:
    client.socket(f"name:{_NAME}").close()


def _summarize(results: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the best rate, because what else runs on the machine can only make it worse, and the median of the times."""
    rates, times = zip(*results, strict=True)
    return max(rates), statistics.median(times)


def _run(command: list[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Run the program, and return the bytes per second and the median of its socket(2) calls in seconds."""
    done = subprocess.run(command, env=dict(environment), cwd="/", capture_output=True, text=True, check=False)
    if done.returncode:
        raise LeftOut((done.stderr.splitlines() or ["it failed"])[-1])
    rate, made = map(float, done.stdout.split())
    return rate, made
