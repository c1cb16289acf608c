"""What commands that connect are led to."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world import ALICE, Daemon, listen_inside


@pytest.fixture
def server(daemon: Daemon, blue: Path) -> Iterator[socket.socket]:
    """It listens on the loopback of blue, inside which ALICE may have TCP sockets made and nothing else."""
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["name:blue"], sockets=["inet:stream", "inet6:stream"])
    with listen_inside("blue") as listener:
        yield listener


def port_of(sock: socket.socket) -> int:
    """Where `sock` is bound."""
    return int(sock.getsockname()[1])


def accepted(listener: socket.socket) -> socket.socket:
    """The next connection to `listener`."""
    sock, _ = listener.accept()
    sock.settimeout(10)
    return sock


def read_all(sock: socket.socket) -> bytes:
    """What comes until the end."""
    with sock.makefile("rb") as file:
        return file.read()


def break_off(sock: socket.socket) -> None:
    """Close `sock` with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()
