"""Clients of the exporter that take their time.  `tests/cli/commands/test_exporter.py` has whole scrapes."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from prometheus_client import CollectorRegistry, Gauge

from nsbroker.cli.exporter import metrics_server
from nsbroker.cli.exporter.metrics_server import MetricsServer
from tests.world import PATIENCE, eventually

REQUEST = b"GET /metrics HTTP/1.0\r\n\r\n"


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    """A server that accepts one connection in each call of `handle_request`; its metrics fit into no buffer of the kernel."""
    registry = CollectorRegistry()
    gauge = Gauge("many", "Values with labels", ["label"], registry=registry)
    for number in range(1000):
        gauge.labels(f"{number}" * 1000)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    with MetricsServer(listener, registry) as server:
        yield server


def connect(server: MetricsServer) -> socket.socket:
    """Return a connection that the server answers."""
    threads = threading.active_count()
    client = socket.socket()
    client.settimeout(PATIENCE)
    # It must be small before it connects: the kernel tells the other end how much it can take.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    client.connect(server.socket.getsockname())

    def accepts() -> bool:
        server.handle_request()
        return threading.active_count() > threads

    eventually(accepts, "the connection is accepted")
    return client


def is_free(server: MetricsServer) -> bool:
    """Whether no request is being answered."""
    return server._free._value == metrics_server._REQUESTS and not any(
        isinstance(thread, threading.Timer) for thread in threading.enumerate()
    )


@pytest.mark.parametrize("path", ["one byte after the other is sent", "one byte after the other is read"])
def test_a_client_that_is_never_quiet_for_long_is_hung_up_on(
    server: MetricsServer, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(metrics_server, "_SECONDS", 0.5)
    with connect(server) as client:
        began = time.monotonic()
        with suppress(ConnectionError):
            if path.endswith("read"):
                client.send(REQUEST)
            while not is_free(server) and time.monotonic() < began + PATIENCE:
                if path.endswith("read"):
                    client.recv(1)
                else:
                    client.send(b"G")
                time.sleep(0.02)
        eventually(lambda: is_free(server), "the server has hung up")
        assert 0.4 < time.monotonic() - began < PATIENCE


def test_a_request_in_time_is_answered_and_leaves_no_timer(server: MetricsServer) -> None:
    with connect(server) as client:
        client.send(REQUEST)
        answer = b"".join(iter(lambda: client.recv(1 << 20), b""))
    assert answer.startswith(b"HTTP/1.0 200 OK")
    assert answer.count(b"many{label=") == 1000
    eventually(lambda: is_free(server), "nothing is left of the request")
