"""What tests of several commands share: checking an error, and a server inside a network namespace to connect to."""

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world import ALICE, PATIENCE, Daemon, listen_inside


@pytest.fixture
def server(daemon: Daemon, blue: Path) -> Iterator[socket.socket]:
    """A server that listens on the loopback of blue.  ALICE may have TCP sockets made inside blue, and nothing else."""
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["name:blue"], sockets=["inet:stream", "inet6:stream"])
    with listen_inside("blue") as listener:
        yield listener


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of ALICE's; users cannot reach those of pytest."""
    with tempfile.TemporaryDirectory(dir="/run") as place:
        os.chown(place, ALICE, ALICE)
        yield Path(place)


def port_of(sock: socket.socket) -> int:
    """Return the port to which `sock` is bound."""
    return int(sock.getsockname()[1])


def accepted(listener: socket.socket) -> socket.socket:
    """Accept the next connection to `listener`."""
    sock, _ = listener.accept()
    sock.settimeout(PATIENCE)
    return sock


def read_all(sock: socket.socket) -> bytes:
    """Read until the end of the data."""
    with sock.makefile("rb") as file:
        return file.read()


def break_off(sock: socket.socket) -> None:
    """Close `sock` so that the connection is reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def one_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    """Check that a command failed with one line on standard error and nothing else, and return that line."""
    assert done.returncode == code, done
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("nsbroker: ")
    return lines[0]
