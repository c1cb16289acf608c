"""`nsbroker forward PORT/udp`, in both directions, for a user, with real sockets in a real network."""

import contextlib
import hashlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nsbroker.namespace import Namespace
from tests.cli.conftest import one_line, port_of
from tests.cli.forwarding.running import Forward
from tests.world import ALICE, LINUX, PATIENCE, Daemon, run_command

pytestmark = pytest.mark.root

# `make test-forward` asks for more.
_DATAGRAMS = int(os.environ.get("DATAGRAMS", "4000"))
# As many are under way at once: what a socket has no room for would be lost.
_WINDOW = 16
LOOPBACK: dict[int, str] = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


@pytest.fixture(autouse=True)
def rule(daemon: Daemon, blue: Path) -> None:
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["name:*"], sockets=["inet:dgram", "inet6:dgram"])
    subprocess.run(["ip", "-n", "blue", "link", "set", "lo", "up"], check=True)


def inside(function: Callable[[], socket.socket]) -> socket.socket:
    with Namespace.from_name("blue", "net") as network:
        return network.call(function)


def restart() -> None:
    """Give the target another network."""
    subprocess.run(["ip", "netns", "del", "blue"], check=True)
    subprocess.run(["ip", "netns", "add", "blue"], check=True)
    subprocess.run(["ip", "-n", "blue", "link", "set", "lo", "up"], check=True)


def bound(family: int, port: int = 0) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((LOOPBACK[family], port))
    sock.settimeout(PATIENCE)
    return sock


def connected(family: int, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.connect((LOOPBACK[family], port))
    sock.settimeout(PATIENCE)
    return sock


def echo(server: socket.socket) -> None:
    """Send everything back, until an empty datagram."""
    while True:
        data, address = server.recvfrom(1 << 16)
        if not data:
            return
        server.sendto(data, address)


def check_all_come_back(client: socket.socket, server: socket.socket) -> None:
    """Send datagrams of all sizes, a few at a time, and compare what comes back."""
    thread = threading.Thread(target=echo, args=(server,))
    thread.start()
    pieces = [os.urandom(size) for size in (1, 100, 1472, 1473, 9000)]
    sent, got = hashlib.sha256(), hashlib.sha256()
    for number in range(_DATAGRAMS):
        data = number.to_bytes(4, "big") + pieces[number % len(pieces)]
        sent.update(data)
        client.send(data)
        if number >= _WINDOW:
            got.update(client.recv(1 << 16))
    for _ in range(min(_WINDOW, _DATAGRAMS)):
        got.update(client.recv(1 << 16))
    client.send(b"")
    thread.join()
    assert got.digest() == sent.digest()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("family", LOOPBACK)
def test_all_datagrams_come_back_from_a_server_inside(daemon: Daemon, family: int) -> None:
    address = "[::1]" if family == socket.AF_INET6 else "127.0.0.1"
    with inside(lambda: bound(family)) as server, Forward(daemon, f"{address}:0:{address}:{port_of(server)}/udp") as forward:
        assert forward.printed[0].startswith(f"udp {address}:")
        with connected(family, forward.port()) as client:
            check_all_come_back(client, server)
        assert forward.end() == (0, [])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("family", LOOPBACK)
def test_all_datagrams_of_a_client_inside_come_back_from_a_server_here(daemon: Daemon, family: int) -> None:
    address = "[::1]" if family == socket.AF_INET6 else "127.0.0.1"
    with bound(family) as server, Forward(daemon, f"--reverse={address}:0:{address}:{port_of(server)}/udp") as forward:
        port = forward.port()
        with inside(lambda: connected(family, port)) as client:
            check_all_come_back(client, server)
        assert forward.end() == (0, [])


def test_a_target_that_was_restarted_is_found_by_the_next_client(daemon: Daemon) -> None:
    with inside(lambda: bound(socket.AF_INET)) as server:
        port = port_of(server)
        with Forward(daemon, f"0:{port}/udp") as forward:
            with connected(socket.AF_INET, forward.port()) as client:
                client.send(b"a question")
                assert server.recv(100) == b"a question"
            server.close()
            restart()
            with inside(lambda: bound(socket.AF_INET, port)) as new, connected(socket.AF_INET, forward.port()) as client:
                client.send(b"another question")
                assert new.recv(100) == b"another question"


def send_until_received(client: socket.socket, server: socket.socket) -> None:
    """Have a client send five times a second until the server gets something."""
    server.settimeout(0.2)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        client.send(b"x")
        with contextlib.suppress(TimeoutError):
            assert server.recv(100) == b"x"
            return
    raise AssertionError("nothing arrives")


@pytest.mark.parametrize("errors", [True, False])
def test_a_client_that_never_stops_sending_reaches_a_target_that_was_restarted(daemon: Daemon, *, errors: bool) -> None:
    if not errors and LINUX < (5, 14):
        pytest.skip("networks have no numbers that a socket shows")
    with inside(lambda: bound(socket.AF_INET)) as old:
        port = port_of(old)
        with Forward(daemon, f"0:{port}/udp") as forward, connected(socket.AF_INET, forward.port()) as client:
            send_until_received(client, old)
            if errors:
                old.close()
            # Otherwise the old socket still takes what arrives in the old network, so that no error tells of the restart.
            restart()
            with inside(lambda: bound(socket.AF_INET, port)) as new:
                send_until_received(client, new)
            assert forward.end()[0] == 0


def test_a_client_that_never_stops_sending_reaches_the_target_after_the_broker_was_restarted(daemon: Daemon) -> None:
    with inside(lambda: bound(socket.AF_INET)) as server, Forward(daemon, f"0:{port_of(server)}/udp") as forward:
        with connected(socket.AF_INET, forward.port()) as client:
            daemon.stop()
            client.send(b"lost")
            assert f"port {port_of(server)}: " in forward.error_line()
            daemon.start()
            send_until_received(client, server)
        assert forward.end()[0] == 0


def test_a_reverse_forward_listens_again_when_the_target_was_restarted(daemon: Daemon) -> None:
    with bound(socket.AF_INET) as server, Forward(daemon, f"--reverse=0:{port_of(server)}/udp") as forward:
        restart()
        assert forward.line() == forward.printed[0]
        with inside(lambda: connected(socket.AF_INET, forward.port())) as client:
            client.send(b"a question")
            data, address = server.recvfrom(100)
            server.sendto(data[::-1], address)
            assert client.recv(100) == b"noitseuq a"


def test_without_the_permission_for_datagrams_it_fails_at_once(daemon: Daemon) -> None:
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["name:*"], sockets=["inet:stream"])
    line = one_line(run_command("forward", "name:blue", "0:53/udp", uid=ALICE, address=daemon.address), 1)
    assert "inet:dgram" in line
