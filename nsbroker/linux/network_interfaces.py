"""Names, indices and types of the interfaces in the network of a socket: see netdevice(7).

The calls are about the network namespace in which the socket was made, whichever one the calling thread is in.  They need no
capability and, unlike rtnetlink(7), no socket of another kind.  All sockets are borrowed.
"""

import contextlib
import ctypes
import fcntl
import socket
import struct

_SIOCGIFNAME = 0x8910
_SIOCGIFCONF = 0x8912
_SIOCGIFHWADDR = 0x8927
_SIOCGIFINDEX = 0x8933

_NAME_SIZE = 16
# struct ifreq: the name, and a union whose largest member is struct ifmap.
_REQUEST_SIZE = struct.calcsize("16sLLHBBB0L")
# Indices are given in turn, to new interfaces of all networks of the host.
_INDEX_MAX = 1 << 15
_LISTED_MAX = 1024


def name_of(sock: socket.socket, index: int) -> str:
    """Return the name of the interface `index`.  Raises OSError: ENODEV."""
    request = struct.pack(f"{_NAME_SIZE}si", b"", index).ljust(_REQUEST_SIZE, b"\0")
    return _name(fcntl.ioctl(sock, _SIOCGIFNAME, request))


def index_of(sock: socket.socket, name: str) -> int:
    """Return the index of the interface `name`.  Raises OSError: ENODEV."""
    (index,) = struct.unpack_from("i", fcntl.ioctl(sock, _SIOCGIFINDEX, _request(name)), _NAME_SIZE)
    return int(index)


def hardware_type(sock: socket.socket, name: str) -> int:
    """Return the ARPHRD_* type of the interface `name`.  Raises OSError: ENODEV."""
    (family,) = struct.unpack_from("H", fcntl.ioctl(sock, _SIOCGIFHWADDR, _request(name)), _NAME_SIZE)
    return int(family)


def exists(sock: socket.socket, index: int) -> bool:
    """Return whether there is an interface `index`."""
    try:
        name_of(sock, index)
    except OSError:
        return False
    return True


def with_addresses(sock: socket.socket) -> list[str]:
    """Return the names of the interfaces that have an IPv4 address.  Raises OSError."""
    buffer = ctypes.create_string_buffer(_LISTED_MAX * _REQUEST_SIZE)
    answer = fcntl.ioctl(sock, _SIOCGIFCONF, struct.pack("iP", len(buffer), ctypes.addressof(buffer)))
    (length,) = struct.unpack_from("i", answer)
    text = buffer.raw[:length]
    names = (_name(text[start : start + _NAME_SIZE]) for start in range(0, length, _REQUEST_SIZE))
    # A second address can have a label of its own, such as eth0:1.
    return list(dict.fromkeys(name.partition(":")[0] for name in names))


def names(sock: socket.socket) -> list[str]:
    """Return the names of all interfaces, for people.  It takes some milliseconds.  Raises OSError.

    An interface without an IPv4 address whose index is 32768 or more is left out: the kernel has no call that lists them.
    """
    found: dict[str, None] = {}
    for index in range(1, _INDEX_MAX):
        with contextlib.suppress(OSError):
            found[name_of(sock, index)] = None
    return list(found | dict.fromkeys(with_addresses(sock)))


def _request(name: str) -> bytes:
    """Return a struct ifreq with `name`.  A name that is too long becomes one that no interface has."""
    text = name.encode(errors="surrogateescape")
    return (text if len(text) < _NAME_SIZE else b"").ljust(_REQUEST_SIZE, b"\0")


def _name(answer: bytes) -> str:
    return answer[:_NAME_SIZE].partition(b"\0")[0].decode(errors="backslashreplace")
