"""What all clients need to connect to an address from inside a target."""

import socket
from collections.abc import Sequence
from typing import Any, NamedTuple

from nsbroker.errors import ConnectionLost, PermissionDenied, SocketFailed


class InetAddress(NamedTuple):
    """One of the addresses of a host name, as getaddrinfo(3) returns them."""

    family: int
    type: int
    protocol: int
    sockaddr: tuple[Any, ...]


def inet_addresses(numbers: Sequence[str], port: int) -> list[InetAddress]:
    """Return the addresses of a stream server at `port`, from numeric addresses."""
    return [
        InetAddress(socket.AF_INET6, STREAM, 0, (number, port, 0, 0))
        if ":" in number
        else InetAddress(socket.AF_INET, STREAM, 0, (number, port))
        for number in numbers
    ]


STREAM = socket.SOCK_STREAM
RETRY = 0.01
"""The seconds to wait before connecting again to a listener whose queue is full."""


def concerns_one_address(error: BaseException) -> bool:
    """Return whether the error concerns one address only, so that the next address of the host name should be tried."""
    return isinstance(error, OSError | PermissionDenied | SocketFailed) and not isinstance(error, ConnectionLost)


def most_informative(failures: Sequence[Exception]) -> Exception:
    """Return the error to raise if no address worked.

    An error of connecting says more than an error of opening the socket, for example that a family is not allowed.
    """
    return next((error for error in reversed(failures) if isinstance(error, OSError)), failures[-1])
