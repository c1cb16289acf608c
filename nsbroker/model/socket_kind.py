"""Kinds of sockets: family and type, and for one that is bound where only root may, the port."""

import enum
import socket
from collections.abc import Mapping
from typing import NamedTuple, Self

from nsbroker.errors import InvalidType

_FIRST_FREE_PORT = 1024


class SocketFamily(enum.StrEnum):
    """The families (address_families(7)) of which sockets are made inside; the kernel may lack some."""

    INET = "inet"
    INET6 = "inet6"
    UNIX = "unix"
    NETLINK = "netlink"
    PACKET = "packet"
    VSOCK = "vsock"

    @property
    def number(self) -> int:
        """Its AF_* number."""
        return _FAMILIES[self]


class SocketType(enum.StrEnum):
    """The types of socket(2)."""

    STREAM = "stream"
    DGRAM = "dgram"
    SEQPACKET = "seqpacket"
    RAW = "raw"

    @property
    def number(self) -> int:
        """Its SOCK_* number."""
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
    """A kind of socket.  `port`: where it is bound, if only root may bind there (1 to 1023); else 0."""

    family: SocketFamily
    type: SocketType
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """`inet:stream`, or `inet:stream:80`; raises InvalidType, which says what would be right."""
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
        """The kind with these AF_* and SOCK_* numbers; raises InvalidType."""
        families = [name for name, number in _FAMILIES.items() if number == family]
        types = [name for name, number in _TYPES.items() if number == kind]
        if not families or not types:
            raise InvalidType(
                f"no sockets of family {family!r} and type {kind!r} are made inside: families are {', '.join(SocketFamily)}, "
                f"types {', '.join(SocketType)}"
            )
        return cls.bound(families[0], types[0], port)

    @classmethod
    def bound(cls, family: SocketFamily, kind: SocketType, port: int) -> Self:
        """The kind of a socket that is bound to `port`, 0 for none."""
        return cls(family, kind, port if port < _FIRST_FREE_PORT else 0)

    def __str__(self) -> str:
        return f"{self.family}:{self.type}:{self.port}" if self.port else f"{self.family}:{self.type}"
