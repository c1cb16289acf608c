"""`nsbroker via`, compared with nsenter as root, in which the same program makes its sockets itself.

The program sends bytes to itself through the loopback interface inside, and times its socket(2) calls.  Beside these, a blocking
client of this process calls OpenSocket.
"""

import contextlib
import functools
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

import nsbroker
from tests.bench import versions
from tests.bench.pace import rounds, turns
from tests.bench.table import LeftOut, Measure, Row, at_most, micro, plain
from tests.bench.versions import Version
from tests.world import named_network

_NAME = "bench"
_PIECES = 4000
_SOCKETS = 100
# One thread sends and receives, so neither the scheduler nor a second processor decides how fast the bytes go.
_PROGRAM = """
import socket, statistics, sys, time
pieces, count = map(int, sys.argv[1:])
piece = bytearray(1 << 16)
server = socket.create_server(("127.0.0.1", 0))
sender = socket.create_connection(server.getsockname())
receiver, _ = server.accept()
spent = []
for _ in range(pieces // 50):
    start = time.process_time()
    for _ in range(50):
        sender.sendall(piece)
        receiver.recv_into(piece, len(piece), socket.MSG_WAITALL)
    spent.append((time.process_time() - start) / (50 * len(piece)))
times = []
for _ in range(count):
    start = time.perf_counter()
    sock = socket.socket()
    times.append(time.perf_counter() - start)
    sock.close()
print(min(spent), statistics.median(times))
"""


class _Costs(NamedTuple):
    """What the program under one command needs: processor seconds for each byte, and seconds for each socket."""

    byte: float
    made: float


def via(found: Mapping[str, Version], pid: int) -> list[Row]:
    """Measure the bytes and the sockets of a program under `nsbroker via`."""
    direct: list[_Costs] = []
    ours: dict[str, list[_Costs]] = {name: [] for name in found}
    calls: dict[str, list[float]] = {name: [] for name in found}
    with named_network(_NAME), contextlib.ExitStack() as stack:
        subprocess.run(["ip", "-n", _NAME, "link", "set", "lo", "up"], check=True)
        program = [sys.executable, "-c", _PROGRAM, str(_PIECES), str(_SOCKETS)]
        brokers = {name: stack.enter_context(versions.serve(version)) for name, version in found.items()}
        clients = {name: stack.enter_context(nsbroker.connect(broker.address)) for name, broker in brokers.items()}
        for _ in turns(9):
            direct.append(_run(["nsenter", f"--net=/run/netns/{_NAME}", *program], os.environ))
            for name, version in found.items():
                environment = version.environment(NSBROKER_ADDRESS=brokers[name].address)
                ours[name].append(_run(version.command("via", f"name:{_NAME}", "--", *program), environment))
                calls[name] += rounds(functools.partial(_open_socket, clients[name]), 100)
    bytes_, sockets = {}, {}
    for name, values in ours.items():
        made, call = statistics.median(one.made for one in values), statistics.median(calls[name])
        bytes_[name] = Measure(_gigabyte(values), _least(values) / _least(direct))
        sockets[name] = Measure(f"{micro(made)}, OpenSocket {micro(call)}", made / call)
    made = statistics.median(one.made for one in direct)
    return [
        plain("via: nsenter as root instead", f"{_gigabyte(direct)}, {micro(made)} a socket"),
        Row("via: processor time of bytes", bytes_, "of nsenter", at_most(1.05)),
        Row("via: socket(2)", sockets, "of OpenSocket by the blocking client", at_most(2.5)),
    ]


def _least(costs: list[_Costs]) -> float:
    """Return the least seconds for a byte, because what else runs on the machine can only make it slower."""
    return min(one.byte for one in costs)


def _gigabyte(costs: list[_Costs]) -> str:
    return f"{_least(costs) * 1e12:.0f} ms a GB"


def _open_socket(client: nsbroker.Broker) -> None:
    client.socket(f"name:{_NAME}").close()


def _run(command: list[str], environment: Mapping[str, str]) -> _Costs:
    done = subprocess.run(command, env=dict(environment), cwd="/", capture_output=True, text=True, check=False)
    if done.returncode:
        raise LeftOut((done.stderr.splitlines() or ["it failed"])[-1])
    return _Costs(*map(float, done.stdout.split()))
