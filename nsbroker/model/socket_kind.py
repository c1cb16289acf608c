"""Kinds of sockets: a family, a type, and for a socket that is bound to a privileged port, the port."""

import enum
import socket
from collections.abc import Mapping
from typing import NamedTuple, Self

from nsbroker.errors import InvalidType

_FIRST_FREE_PORT = 1024


class SocketFamily(enum.StrEnum):
    """The address families (address_families(7)) of sockets that the broker creates; the kernel may lack some of them."""

    INET = "inet"
    INET6 = "inet6"
    UNIX = "unix"
    NETLINK = "netlink"
    PACKET = "packet"
    VSOCK = "vsock"

    @property
    def number(self) -> int:
        """The AF_* number of the family."""
        return _FAMILIES[self]


class SocketType(enum.StrEnum):
    """The socket types, as in socket(2)."""

    STREAM = "stream"
    DGRAM = "dgram"
    SEQPACKET = "seqpacket"
    RAW = "raw"

    @property
    def number(self) -> int:
        """The SOCK_* number of the type."""
        return _TYPES[self]


_FAMILIES: Mapping[SocketFamily, int] = {
    SocketFamily.INET: socket.AF_INET,
    SocketFamily.INET6: socket.AF_INET6,
    SocketFamily.UNIX: socket.AF_UNIX,
    SocketFamily.NETLINK: socket.AF_NETLINK,
    SocketFamily.PACKET: socket.AF_PACKET,
    SocketFamily.VSOCK: socket.AF_VSOCK,
}
_TYPES: Mapping[SocketType, int] = {
    SocketType.STREAM: socket.SOCK_STREAM,
    SocketType.DGRAM: socket.SOCK_DGRAM,
    SocketType.SEQPACKET: socket.SOCK_SEQPACKET,
    SocketType.RAW: socket.SOCK_RAW,
}


class SocketKind(NamedTuple):
    """A kind of socket.  `port` is the port that it is bound to if that is a privileged one (1 to 1023), otherwise 0."""

    family: SocketFamily
    type: SocketType
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `inet:stream` or `inet:stream:80`.  Raises InvalidType, which says how to write it."""
        family, _, rest = text.partition(":")
        kind, colon, port = rest.partition(":")
        number = int(port) if port.isascii() and port.isdigit() and len(port) <= 4 else 0
        try:
            if colon and not (0 < number < _FIRST_FREE_PORT and family in ("inet", "inet6")):
                raise ValueError
            return cls(SocketFamily(family), SocketType(kind), number)
        except ValueError as error:
            raise InvalidType(
                f"{text[:80]!r} is no kind of socket: write FAMILY:TYPE, a family of {', '.join(SocketFamily)}, a type of "
                f"{', '.join(SocketType)}; for one bound to a port below {_FIRST_FREE_PORT}, inet:TYPE:PORT or inet6:TYPE:PORT"
            ) from error

    @classmethod
    def of_numbers(cls, family: int, kind: int, port: int = 0) -> Self:
        """Return the kind with these AF_* and SOCK_* numbers, bound to `port` (0: not bound).  Raises InvalidType."""
        families = [name for name, number in _FAMILIES.items() if number == family]
        types = [name for name, number in _TYPES.items() if number == kind]
        if not families or not types:
            raise InvalidType(
                f"the broker opens no sockets of family {family!r} and type {kind!r}: families are {', '.join(SocketFamily)}, "
                f"types {', '.join(SocketType)}"
            )
        return cls.bound(families[0], types[0], port)

    @classmethod
    def bound(cls, family: SocketFamily, kind: SocketType, port: int) -> Self:
        """Return the kind of a socket that is bound to `port` (0: not bound)."""
        return cls(family, kind, port if port < _FIRST_FREE_PORT else 0)

    def __str__(self) -> str:
        return f"{self.family}:{self.type}:{self.port}" if self.port else f"{self.family}:{self.type}"
