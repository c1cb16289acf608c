"""`nsbroker forward`, compared with socat and nsenter (as in kubectl's port-forward), and with neither.

A server inside discards or echoes bytes, in its own process; the clients are threads of this process.  `direct` is a client
whose socket was made inside.  socat is started as people usually do, with its default buffer size: for each connection it
starts nsenter, which starts a second socat inside.  Without an nsenter for each connection (`netns=`, which not every socat
has), connecting would be faster, but a process would still copy the bytes.
"""

import contextlib
import functools
import os
import shutil
import signal
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from nsbroker import Namespace
from tests.bench import versions
from tests.bench.pace import rounds, turns
from tests.bench.table import Goal, LeftOut, Measure, Row, at_least, at_most, left_out, micro, plain
from tests.bench.versions import Version
from tests.world import eventually, listen_inside, named_network

Connect = Callable[[], socket.socket]

_NAME = "bench"
_PIECE = 1 << 20
_POURED = 1 << 28
_CROWD = 30
_TRIPS = 1000
_FIRST_BYTES = 20
_DIRECT = "direct"
_SOCAT = "socat"


class Way(NamedTuple):
    """The results of one way into the network."""

    alone: float
    """Bytes per second through one connection."""
    crowd: float
    """Bytes per second through many connections at once."""
    trip: float
    """Seconds of the round trip of a byte."""
    first: float
    """Seconds from connecting to the first byte of the reply."""


_RATES = (
    ("forward: bytes through 1 connection", "alone", at_least(2.0, 2.5)),
    (f"forward: bytes through {_CROWD} connections", "crowd", None),
)
_DELAYS = (
    ("forward: a byte there and back", "trip", at_most(1.2, 1.0)),
    ("forward: connecting to first byte", "first", None),
)


def forwarding(found: Mapping[str, Version], pid: int) -> list[Row]:
    """Measure the ways to a port inside a network."""
    measured: dict[str, list[Way]] = {}
    with named_network(_NAME), listen_inside(_NAME) as sink, listen_inside(_NAME) as echo, contextlib.ExitStack() as running:
        for listener, serve in ((sink, swallow), (echo, _echo)):
            running.enter_context(serving(listener, serve))
        inside = [int(listener.getsockname()[1]) for listener in (sink, echo)]
        led = {_DIRECT: running.enter_context(_direct(inside))}
        if shutil.which("socat") is not None:
            led[_SOCAT] = running.enter_context(_socat(inside))
        for name, version in found.items():
            led[name] = running.enter_context(_forward(version, inside))
        for _ in turns(10):
            for name, (to_sink, to_echo) in led.items():
                way = Way(_pour(to_sink, 1), _pour(to_sink, _CROWD), _trip(to_echo), _first_byte(to_echo))
                measured.setdefault(name, []).append(way)
    medians = {name: Way(*map(statistics.median, zip(*values, strict=True))) for name, values in measured.items()}
    rows = [row for way in (_DIRECT, _SOCAT) if way in medians for row in [plain(f"forward: {way} instead", _text(medians[way]))]]
    if _SOCAT not in medians:
        rows.append(left_out("forward: socat instead", "no socat; `make bench RIVALS=all` installs it"))
    return rows + [_row(medians, found, *of) for of in (*_RATES, *_DELAYS)]


def _text(way: Way) -> str:
    return f"{_rate(way.alone)}, {_rate(way.crowd)}, {micro(way.trip)}, {micro(way.first)}"


def _rate(number: float) -> str:
    return f"{number / 1e6:,.0f} MB/s"


def _row(medians: Mapping[str, Way], found: Mapping[str, Version], work: str, field: str, goal: Goal | None) -> Row:
    show = _rate if field in ("alone", "crowd") else micro
    beside: float | None = getattr(medians[_SOCAT], field) if _SOCAT in medians else None
    measures = {}
    for name in found:
        value: float = getattr(medians[name], field)
        measures[name] = Measure(show(value), value / beside if beside else None)
    return Row(work, measures, "of socat", goal)


@contextlib.contextmanager
def _direct(ports: list[int]) -> Iterator[list[Connect]]:
    with Namespace.from_name(_NAME, "net") as network:
        yield [functools.partial(network.call, socket.create_connection, ("127.0.0.1", port)) for port in ports]


@contextlib.contextmanager
def _socat(ports: list[int]) -> Iterator[list[Connect]]:
    local = [_free_port() for _ in ports]
    commands = [
        ["socat", f"TCP-LISTEN:{here},fork,reuseaddr,backlog=1024",
         f"EXEC:nsenter --net=/run/netns/{_NAME} socat - TCP\\:127.0.0.1\\:{there}"]
        for here, there in zip(local, ports, strict=True)
    ]  # fmt: skip
    processes = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for command in commands]
    try:
        yield [_to(port) for port in local]
    finally:
        for process in processes:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def _forward(version: Version, ports: list[int]) -> Iterator[list[Connect]]:
    with versions.serve(version) as broker:
        command = version.command("forward", f"name:{_NAME}", *(f"0:{port}" for port in ports))
        environment = version.environment(NSBROKER_ADDRESS=broker.address)
        with subprocess.Popen(
            command, env=environment, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            try:
                lines = [process.stdout.readline() for _ in ports]
                if not all(lines):
                    raise LeftOut("`nsbroker forward` ended")
                yield [_to(int(line.split()[0].rpartition(":")[2])) for line in lines]
            finally:
                process.terminate()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _to(port: int) -> Connect:
    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", port))

    eventually(lambda: _answers(connect), f"something listens on port {port}")
    return connect


def _answers(connect: Connect) -> bool:
    with contextlib.suppress(ConnectionRefusedError):
        connect().close()
        return True
    return False


@contextlib.contextmanager
def serving(listener: socket.socket, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """Serve connections in a child process, so that the server does not share an interpreter with the clients."""
    child = os.fork()
    if child == 0:
        try:
            listener.settimeout(None)
            while True:
                sock, _ = listener.accept()
                threading.Thread(target=serve, args=(sock,), daemon=True).start()
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)


def swallow(sock: socket.socket) -> None:
    """Read to the end, and then confirm with one byte."""
    buffer = bytearray(_PIECE)
    with sock, contextlib.suppress(OSError):
        # With MSG_TRUNC the kernel drops the bytes instead of copying them, so reading costs almost nothing.
        while sock.recv_into(buffer, flags=socket.MSG_TRUNC):
            pass
        sock.sendall(b"!")


def _echo(sock: socket.socket) -> None:
    with sock, contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := sock.recv(100):
            sock.sendall(data)


def _pour(connect: Connect, connections: int) -> float:
    """Send bytes through that many connections at once, until the server has all.  Returns the bytes per second."""
    piece = bytes(_PIECE)
    pieces = _POURED // _PIECE // connections

    def send(sock: socket.socket) -> None:
        for _ in range(pieces):
            sock.sendall(piece)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)

    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect()) for _ in range(connections)]
        # Wait until socat has started its processes; the time of that has its own row.
        time.sleep(0.01 * connections)
        threads = [threading.Thread(target=send, args=(sock,)) for sock in socks]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken = time.perf_counter() - start
    return pieces * connections * _PIECE / taken


def _trip(connect: Connect) -> float:
    with connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return statistics.median(rounds(lambda: _ask(sock), _TRIPS))


def _first_byte(connect: Connect) -> float:
    def once() -> None:
        with connect() as sock:
            _ask(sock)

    return statistics.median(rounds(once, _FIRST_BYTES))


def _ask(sock: socket.socket) -> None:
    sock.sendall(b"?")
    assert sock.recv(1)
