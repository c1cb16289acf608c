"""Ways into a network: `nsbroker forward`, compared with socat and nsenter (as in kubectl's port-forward), and with neither.

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
from collections.abc import Callable, Iterator
from typing import NamedTuple

from nsbroker import Namespace
from tests.bench import broker
from tests.bench.rivals import rounds
from tests.world import eventually, listen_inside, named_network, start_command

Connect = Callable[[], socket.socket]

_NAME = "bench"
_PIECE = 1 << 20
_OPENINGS = 1000
_TRIPS = 2000
_FIRST_BYTES = 60


class Way(NamedTuple):
    """The median results of one way into the network."""

    alone: float
    """Bytes per second through one connection."""
    crowd: float
    """Bytes per second through a hundred connections at once."""
    trip: float
    """Seconds of the round trip of a byte."""
    first: float
    """Seconds from connecting to the first byte of the reply."""


def opening(count: int) -> tuple[float, float]:
    """Return the median seconds of OpenSocket, and of Open of the same network, over one connection."""
    sockets: list[float] = []
    namespaces: list[float] = []
    with named_network(_NAME), broker.daemon() as running, running.connect() as client:
        for _ in range(count):
            namespaces += rounds(lambda: client.open(f"name:{_NAME}", "net").close(), _OPENINGS)
            sockets += rounds(lambda: client.socket(f"name:{_NAME}").close(), _OPENINGS)
    return statistics.median(sockets), statistics.median(namespaces)


def ways(count: int, size: int) -> dict[str, Way]:
    """Return the medians of each way, from `count` rounds in which the ways take turns; `size` bytes go through each time.

    Raises FileNotFoundError if socat is not installed.
    """
    if shutil.which("socat") is None:
        raise FileNotFoundError("socat")
    measured: dict[str, list[Way]] = {}
    with named_network(_NAME), listen_inside(_NAME) as sink, listen_inside(_NAME) as echo, contextlib.ExitStack() as running:
        for listener, serve in ((sink, _swallow), (echo, _echo)):
            running.enter_context(_serving(listener, serve))
        inside = [int(listener.getsockname()[1]) for listener in (sink, echo)]
        led = {
            "direct": running.enter_context(_direct(inside)),
            "socat": running.enter_context(_socat(inside)),
            "forward": running.enter_context(_forward(inside)),
        }
        for _ in range(count):
            for name, (to_sink, to_echo) in led.items():
                way = Way(_pour(to_sink, 1, size), _pour(to_sink, 100, size), _trip(to_echo), _first_byte(to_echo))
                measured.setdefault(name, []).append(way)
    return {name: Way(*map(statistics.median, zip(*found, strict=True))) for name, found in measured.items()}


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
def _forward(ports: list[int]) -> Iterator[list[Connect]]:
    with broker.daemon() as running:
        process = start_command("forward", f"name:{_NAME}", *(f"0:{port}" for port in ports), address=running.address)
        with process:
            assert process.stdout is not None
            lines = [process.stdout.readline().decode() for _ in ports]
            try:
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
def _serving(listener: socket.socket, serve: Callable[[socket.socket], None]) -> Iterator[None]:
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


def _swallow(sock: socket.socket) -> None:
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


def _pour(connect: Connect, connections: int, size: int) -> float:
    """Send `size` bytes through that many connections at once, until the server has all.  Returns the bytes per second."""
    piece = bytes(_PIECE)
    socks = [connect() for _ in range(connections)]
    # Wait until socat has started its processes; the time of that has its own row.
    time.sleep(0.01 * connections)

    def send(sock: socket.socket) -> None:
        for _ in range(size // _PIECE // connections):
            sock.sendall(piece)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b"!"

    threads = [threading.Thread(target=send, args=(sock,)) for sock in socks]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - start
    for sock in socks:
        sock.close()
    return size // _PIECE // connections * connections * _PIECE / taken


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
