"""What `create_connection` of the fronts has in common."""

import socket
from collections.abc import Sequence

from nsbroker.errors import PermissionDenied, SocketFailed

STREAM = socket.SOCK_STREAM

Attempt = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]
"""One row of getaddrinfo(): family, type, protocol, name, address."""

FAILURES = (OSError, PermissionDenied, SocketFailed)
"""Errors after which the next address of a name is tried."""


def most_telling(failures: Sequence[Exception]) -> Exception:
    """The error to raise when no address worked: what came of connecting says more than a family that is not allowed."""
    return next((error for error in reversed(failures) if isinstance(error, OSError)), failures[-1])
