"""What to forward, as command lines write it: `[[ADDRESS:]LISTEN:][HOST:]PORT[/udp]`.

LISTEN is the port to listen on, and HOST and PORT are where that leads.  `unix:PATH` can stand in place of either.  An IPv6 address
is written in brackets.
"""

import argparse
import enum
import os
import re
from typing import NamedTuple

PORT_MAX = 65535
_LOOPBACK = "127.0.0.1"
_UNIX = "unix:"
# unix(7): sun_path has 108 bytes, of which the last is NUL.
_PATH_MAX = 107
_PART = re.compile(r"unix:[^:]*|\[[^\[\]]*\]|[^:\[\]]*")
_BRACKETED = re.compile(r"\[[0-9A-Za-z:.%_-]+\]")
_FORMS = (
    "what to forward: write [[ADDRESS:]LISTEN:][HOST:]PORT, such as 8080, 8080:80, 8080:db:5432, 5353:53/udp or "
    "unix:/run/web.sock:80"
)
_SOCKS_FORMS = "where to listen: write [ADDRESS:]PORT or unix:PATH, such as 1080"


class Protocol(enum.StrEnum):
    """How the bytes travel."""

    TCP = "tcp"
    """Connections, also those of Unix sockets."""
    UDP = "udp"
    """Datagrams."""


class End(NamedTuple):
    """One end: a host and a port, or the path of a Unix socket.

    Where to connect to, no host means the loopback, over IPv4 or else IPv6.  Where to listen, port 0 means any free port.
    """

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"{_UNIX}{self.path}"
        if not self.host:
            return f"port {self.port}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def unix_address(self) -> bytes:
        """The path as the address of a Unix socket; one that begins with '@' is an abstract one (unix(7))."""
        path = os.fsencode(self.path)
        return b"\0" + path[1:] if path.startswith(b"@") else path


class Spec(NamedTuple):
    """What to forward: where to listen, where that leads, and how."""

    listen: End
    to: End
    protocol: Protocol = Protocol.TCP

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """Read it.  Raises ArgumentTypeError."""
        body, slash, word = text.rpartition("/")
        if slash and word in frozenset(Protocol) and body:
            protocol = Protocol(word)
        else:
            body, protocol = text, Protocol.TCP
        parts = _split(body, text)
        if parts[0].startswith(_UNIX) and len(parts) > 1:
            spec = cls(_unix(parts[0], text), _destination(parts[1:], text), protocol)
        else:
            # Only an address can stand before LISTEN, and no address is a number.
            address = _LOOPBACK if _is_number(parts[0]) or len(parts) == 1 else _host(parts.pop(0), text)
            to = _destination(parts[1:] or parts, text)
            spec = cls(End(address, _port(parts[0], text, least=0 if len(parts) > 1 else 1)), to, protocol)
        if protocol is Protocol.UDP and (spec.listen.path or spec.to.path):
            raise argparse.ArgumentTypeError(f"{text[:80]!r}: datagrams are forwarded between ports, not between Unix sockets")
        return spec


def parse_listen(text: str) -> End:
    """Read where to listen: `[ADDRESS:]PORT` or `unix:PATH`.  Raises ArgumentTypeError."""
    match _split(text, text, _SOCKS_FORMS):
        case [path] if path.startswith(_UNIX):
            return _unix(path, text)
        case [port]:
            return End(_LOOPBACK, _port(port, text, least=0, forms=_SOCKS_FORMS))
        case [address, port] if not _is_number(address):
            return End(_host(address, text), _port(port, text, least=0, forms=_SOCKS_FORMS))
    raise _wrong(text, _SOCKS_FORMS)


def _split(text: str, whole: str, forms: str = _FORMS) -> list[str]:
    """Return the parts between the colons, of which there is at least one."""
    parts: list[str] = []
    place = 0
    while match := _PART.match(text, place):  # it also fits the empty text
        parts.append(match[0])
        place = match.end()
        if place == len(text):
            break
        if text[place] != ":":
            raise _wrong(whole, forms)
        place += 1
    return parts


def _destination(parts: list[str], whole: str) -> End:
    match parts:
        case [path] if path.startswith(_UNIX):
            return _unix(path, whole)
        case [port]:
            return End("", _port(port, whole))
        case [host, port] if not _is_number(host):
            return End(_host(host, whole), _port(port, whole))
    raise _wrong(whole)


def _unix(part: str, whole: str) -> End:
    path = part.removeprefix(_UNIX)
    if not path.strip("@") or "\0" in path or len(os.fsencode(path)) > _PATH_MAX:
        raise argparse.ArgumentTypeError(
            f"{whole[:80]!r}: the path of a Unix socket has from 1 to {_PATH_MAX} bytes, and no ':' or NUL in it"
        )
    return End("", 0, path)


def _host(part: str, whole: str) -> str:
    if not part or part.startswith(("[", _UNIX)):
        if not _BRACKETED.fullmatch(part):
            raise _wrong(whole)
        return part[1:-1]
    return part


def _port(part: str, whole: str, least: int = 1, forms: str = _FORMS) -> int:
    if not _is_number(part):
        raise _wrong(whole, forms)
    number = int(part) if len(part) <= len(str(PORT_MAX)) else PORT_MAX + 1
    if not least <= number <= PORT_MAX:
        raise argparse.ArgumentTypeError(
            f"{whole[:80]!r}: a port is a number from 1 to {PORT_MAX} (where it listens, 0 is any free port)"
        )
    return number


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _wrong(text: str, forms: str = _FORMS) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"{text[:80]!r} is not {forms}")
