"""What the fronts have in common when they connect: to the broker, and to an address inside."""

import socket
from collections.abc import Sequence
from pathlib import Path

from nsbroker.errors import ConnectionLost, PermissionDenied, SocketFailed, Timeout

STREAM = socket.SOCK_STREAM
RETRY = 0.01
"""How long to wait, in seconds, before connecting again to a listener whose queue is full."""


def queue_stays_full(path: Path, timeout: float) -> Timeout:
    """What to raise when the broker accepted no connection in time."""
    return Timeout(f"connect to the broker at {path}", timeout)


def is_of_address(error: BaseException) -> bool:
    """Whether it is of one address alone, so that the next address of a name is tried."""
    return isinstance(error, OSError | PermissionDenied | SocketFailed) and not isinstance(error, ConnectionLost)


def most_telling(failures: Sequence[Exception]) -> Exception:
    """The error to raise when no address worked: what came of connecting says more than a family that is not allowed."""
    return next((error for error in reversed(failures) if isinstance(error, OSError)), failures[-1])
