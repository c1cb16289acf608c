"""What all clients check before they connect, and the errors of connecting."""

import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import TypeVar

from nsbroker.client.requests import Request
from nsbroker.errors import ConnectionFailed, ConnectionLost

T = TypeVar("T")


def connect_failed(path: Path, error: OSError) -> ConnectionFailed:
    """Return the exception to raise if connecting to the broker at `path` failed."""
    match error:
        case FileNotFoundError() | ConnectionRefusedError():
            hint = "is the daemon running? (as root: `systemctl start nsbroker.socket`, or without systemd `nsbroker serve`)"
        case PermissionError():
            hint = "the socket or a folder above it is not open to you"
        case _:
            hint = "it does not answer"
    return ConnectionFailed(f"no broker at {path}: {error.strerror or error}: {hint}")


def take_connection(fd: int) -> socket.socket:
    """Return the socket of `fd`, a connection to the broker.  Takes `fd`, also on error, and sets it close-on-exec.

    Raises ConnectionFailed if it is no connected Unix stream socket.
    """
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise ConnectionFailed(f"the descriptor {fd} is no connection to a broker: {error.strerror}") from error
    try:
        sock.getpeername()
        if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
            raise OSError(errno.EPROTOTYPE, "it is no Unix stream socket")
    except OSError as error:
        sock.close()
        raise ConnectionFailed(f"the descriptor {fd} is no connection to a broker: {error.strerror}") from error
    return sock


def require_path(path: Path | None, request: Request[T]) -> Path:
    """Return the path at which the client can connect again.  Raises ConnectionLost if it has none."""
    if path is None:
        raise ConnectionLost(
            f"{request.what()}: the connection has ended, is the one of another process, or is needed for other calls, and this "
            "client was made from a descriptor, so that it cannot connect again: make another client"
        )
    return path


def check_no_address(address: str | None) -> None:
    """Check that a caller who gave a descriptor gave no address, too.  Raises ValueError."""
    if address is not None:
        raise ValueError(f"connect({address!r}, fd=...): give either an address or a descriptor, not both")


def check_timeout(seconds: float | None) -> float | None:
    """Return the timeout that a caller gave.  Raises ValueError if it is not positive."""
    if seconds is not None and not seconds > 0:
        raise ValueError(f"a timeout of {seconds!r} s: write a number greater than 0, or None for no limit")
    return seconds
