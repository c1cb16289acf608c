"""Every way of `nsbroker forward` that has connections, with much data in both directions at once."""

import contextlib
import hashlib
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nsbroker.namespace import Namespace
from tests.cli.conftest import port_of
from tests.cli.forwarding.running import Forward
from tests.world import ALICE, PATIENCE, Daemon

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

# `make test-forward` asks for a gigabyte.
_BYTES = int(os.environ.get("BYTES", str(1 << 26)))
_PIECE = 1 << 20


@pytest.fixture(autouse=True)
def rule(daemon: Daemon, blue: Path) -> None:
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["name:blue"], sockets=["inet:stream", "inet6:stream", "unix:stream"])
    subprocess.run(["ip", "-n", "blue", "link", "set", "lo", "up"], check=True)


def here(function: Callable[[], socket.socket]) -> socket.socket:
    return function()


def inside(function: Callable[[], socket.socket]) -> socket.socket:
    with Namespace.from_name("blue", "net") as network:
        return network.call(function)


def tcp_server(address: str) -> socket.socket:
    return socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)


def tcp_client(address: str, port: int) -> socket.socket:
    return socket.create_connection((address, port), timeout=PATIENCE)


def socks_client(port: int, to: int) -> socket.socket:
    client = tcp_client("127.0.0.1", port)
    client.sendall(b"\5\1\0\5\1\0\1" + socket.inet_aton("127.0.0.1") + to.to_bytes(2, "big"))
    assert client.recv(2, socket.MSG_WAITALL) == b"\5\0"
    assert client.recv(10, socket.MSG_WAITALL)[:2] == b"\5\0"
    return client


def unix_client(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    return client


def unix_server(path: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    return server


def check_all_arrives(client: socket.socket, server: socket.socket) -> None:
    """Send much data both ways at once, and compare."""
    pieces = [os.urandom(_PIECE) for _ in range(4)]
    sent = hashlib.sha256()
    for number in range(_BYTES // _PIECE):
        sent.update(pieces[number % len(pieces)])
    got: list[bytes] = []

    def send(sock: socket.socket) -> None:
        for number in range(_BYTES // _PIECE):
            sock.sendall(pieces[number % len(pieces)])
        sock.shutdown(socket.SHUT_WR)

    def receive(sock: socket.socket) -> None:
        hashed, buffer = hashlib.sha256(), memoryview(bytearray(_PIECE))
        while size := sock.recv_into(buffer):
            hashed.update(buffer[:size])
        got.append(hashed.digest())

    threads = [threading.Thread(target=run, args=(sock,)) for sock in (client, server) for run in (send, receive)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [sent.digest()] * 2


@pytest.mark.parametrize("way", ["inward", "inward over IPv6", "reverse", "reverse over IPv6", "SOCKS", "unix here", "unix inside"])
def test_all_bytes_arrive_as_they_were_sent(daemon: Daemon, folder: Path, way: str) -> None:
    path, name = str(folder / "here"), f"@nsbroker-{os.getpid()}"
    host = "::1" if "IPv6" in way else "127.0.0.1"
    shown = f"[{host}]" if ":" in host else host
    with contextlib.ExitStack() as stack:
        if way == "unix inside":
            server = stack.enter_context(inside(lambda: unix_server(name.replace("@", "\0"))))
            to = f"unix:{name}"
        else:
            server = stack.enter_context((here if "reverse" in way else inside)(lambda: tcp_server(host)))
            to = f"{shown}:{port_of(server)}"
        server.settimeout(PATIENCE)
        argument = {"SOCKS": "--socks=0", "unix here": f"unix:{path}:{to}"}.get(way, f"{shown}:0:{to}")
        forward = stack.enter_context(Forward(daemon, f"--reverse={argument}" if "reverse" in way else argument))
        if way == "SOCKS":
            client = socks_client(forward.port(), port_of(server))
        elif way == "unix here":
            client = unix_client(path)
        else:
            client = (inside if "reverse" in way else here)(lambda: tcp_client(host, forward.port()))
        stack.enter_context(client)
        accepted, _ = server.accept()
        with accepted:
            check_all_arrives(client, accepted)
        assert forward.end() == (0, [])
