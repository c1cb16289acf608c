"""A running `nsbroker forward`, for tests of all its ways."""

import contextlib
import os
import signal
import socket
from pathlib import Path
from typing import Any, Self

from tests.world import ALICE, PATIENCE, Daemon, start_command


class Forward:
    """`nsbroker forward name:blue`, run by ALICE until `end`.  It prints a line for each of its arguments (or `lines`)."""

    def __init__(self, daemon: Daemon, *arguments: object, lines: int = 0, **options: Any) -> None:
        self._process = start_command("forward", "name:blue", *map(str, arguments), uid=ALICE, address=daemon.address, **options)
        assert self._process.stdout is not None
        self.printed = [self.line() for _ in range(lines or len(arguments))]

    def line(self) -> str:
        """Return the next line that it prints."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().rstrip()

    def error_line(self) -> str:
        """Return the next line that it prints on standard error."""
        assert self._process.stderr is not None
        return self._process.stderr.readline().decode().rstrip()

    def port(self, which: int = 0) -> int:
        """Return the port that it printed."""
        return int(self.printed[which].partition(" leads ")[0].rpartition(":")[2])

    def connect(self, which: int = 0) -> socket.socket:
        """Connect to an address that it printed."""
        address, _, port = self.printed[which].partition(" ")[0].rpartition(":")
        return socket.create_connection((address.strip("[]"), int(port)), timeout=PATIENCE)

    def files(self, kind: str) -> int:
        """Return how many files it has open whose name in /proc starts with `kind`, such as `socket:`."""
        names = []
        for path in Path(f"/proc/{self._process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                names.append(os.readlink(path))
        return sum(name.startswith(kind) for name in names)

    def memory(self) -> int:
        """Return its resident memory in bytes."""
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    def leave(self) -> None:
        """Close its standard output, as a reader does that has seen enough."""
        assert self._process.stdout is not None
        self._process.stdout.close()

    def wait(self) -> tuple[int, list[str]]:
        """Wait until it ends by itself, and return the exit code and the lines on standard error."""
        with self._process:
            assert self._process.stderr is not None
            errors = self._process.stderr.read()
        return self._process.returncode, errors.decode().splitlines()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, list[str]]:
        """Send a signal, and return the exit code and the lines on standard error."""
        self._process.send_signal(number)
        _, errors = self._process.communicate(timeout=PATIENCE)
        return self._process.returncode, errors.decode().splitlines()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self.end()


def ask(client: socket.socket, server: socket.socket) -> None:
    """Send bytes in both directions."""
    client.sendall(b"ping")
    assert server.recv(5) == b"ping"
    server.sendall(b"pong")
    assert client.recv(5) == b"pong"
