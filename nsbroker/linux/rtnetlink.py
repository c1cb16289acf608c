"""Adding, setting up and deleting network interfaces through rtnetlink: see rtnetlink(7), netlink(7) and veth(4).

A netlink socket speaks for the network namespace in which it was made, whichever one the thread that uses it is in.  The kernel
checks CAP_NET_ADMIN twice, in the user namespace that owns the network: for the thread that made the socket, and for the one that
sends.
"""

import os
import socket
import struct
from collections.abc import Iterable

_NETLINK_ROUTE = 0
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NLMSG_ERROR = 2
_RTM_NEWLINK = 16
_RTM_DELLINK = 17
_NLM_F_REQUEST = 0x1
_NLM_F_ACK = 0x4
_NLM_F_EXCL = 0x200
_NLM_F_CREATE = 0x400
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1
_IFLA_IFNAME = 3
_IFLA_LINKINFO = 18
_IFLA_NET_NS_FD = 28
_IFLA_INFO_KIND = 1
_IFLA_INFO_DATA = 2
_VETH_INFO_PEER = 1
_NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF
_IFF_UP = 0x1

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")
_REPLY_MAX = 8192
# The kernel answers while the request is being sent, so this is only for the case that the answer was dropped.
_ANSWER_SECONDS = 5.0


class InterfaceError(OSError):
    """What the kernel refused.  `text` is its own explanation, or empty."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(number, os.strerror(number))
        self.text = text


def connect() -> socket.socket:
    """Return a netlink socket (the caller's, close-on-exec) in the network namespace of the calling thread.  Raises OSError.

    It is connected to the kernel, so the kernel refuses messages of other senders with ECONNREFUSED (netlink(7)).
    """
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE)
    try:
        sock.settimeout(_ANSWER_SECONDS)
        # From now on the socket receives from the kernel alone.  Otherwise root of the network could send false answers to it.
        sock.connect((0, 0))
        # The kernel shall explain its errors (Linux 4.12), and not repeat the request in them (4.3).
        sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def add_veth(sock: socket.socket, name: str, peer_network: int, peer_name: str) -> None:
    """Add a pair of veth: `name` in the network of `sock`, `peer_name` in the network whose nsfs fd is `peer_network`.

    Borrows both.  Either both ends are made, or none.  They are not set up.  Raises InterfaceError: EEXIST when there is an
    interface with one of the names, EPERM, EOPNOTSUPP when the kernel has no veth.
    """
    peer = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    peer += _attribute(_IFLA_IFNAME, _text(peer_name)) + _attribute(_IFLA_NET_NS_FD, struct.pack("=I", peer_network))
    data = _attribute(_VETH_INFO_PEER | _NLA_F_NESTED, peer)
    info = _attribute(_IFLA_INFO_KIND, b"veth") + _attribute(_IFLA_INFO_DATA | _NLA_F_NESTED, data)
    attributes = (_attribute(_IFLA_IFNAME, _text(name)), _attribute(_IFLA_LINKINFO | _NLA_F_NESTED, info))
    _request(sock, _RTM_NEWLINK, _NLM_F_CREATE | _NLM_F_EXCL, 0, attributes)


def set_up(sock: socket.socket, name: str) -> None:
    """Set the interface `name` in the network of `sock` (borrowed) up.  Raises InterfaceError: ENODEV when there is none."""
    _request(sock, _RTM_NEWLINK, 0, _IFF_UP, (_attribute(_IFLA_IFNAME, _text(name)),))


def exists(sock: socket.socket, name: str) -> bool:
    """Return whether there is an interface `name` in the network of `sock` (borrowed)."""
    try:
        # This changes nothing.
        _request(sock, _RTM_NEWLINK, 0, 0, (_attribute(_IFLA_IFNAME, _text(name)),))
    except InterfaceError:
        return False
    return True


def delete(sock: socket.socket, name: str) -> None:
    """Delete the interface `name` in the network of `sock` (borrowed); of a veth, both ends.  Raises InterfaceError."""
    _request(sock, _RTM_DELLINK, 0, 0, (_attribute(_IFLA_IFNAME, _text(name)),))


def _request(sock: socket.socket, kind: int, flags: int, up: int, attributes: Iterable[bytes]) -> None:
    """Send one request about an interface, and wait for the answer.  `up` are the flags (IFF_*) that are set."""
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, up, up) + b"".join(attributes)
    header = _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | _NLM_F_ACK | flags, 1, 0)
    sock.send(header + body)
    answer = sock.recv(_REPLY_MAX)
    _, answered, answer_flags, _, _ = _HEADER.unpack_from(answer)
    if answered != _NLMSG_ERROR:
        raise OSError(f"the kernel answered a request of rtnetlink with a message of type {answered}")
    (number,) = _ERROR.unpack_from(answer, _HEADER.size)
    if number:
        # After the error comes the header of the request, and then the attributes.
        start = 2 * _HEADER.size + _ERROR.size
        raise InterfaceError(-number, _explanation(answer[start:]) if answer_flags & _NLM_F_ACK_TLVS else "")


def _explanation(attributes: bytes) -> str:
    """Return the kernel's text among the attributes of an error; empty when there is none."""
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if length < _ATTRIBUTE.size:
            break
        if kind & _NLA_TYPE_MASK == _NLMSGERR_ATTR_MSG:
            return attributes[_ATTRIBUTE.size : length].rstrip(b"\0").decode(errors="replace")
        attributes = attributes[_aligned(length) :]
    return ""


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(_aligned(length) - length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _text(text: str) -> bytes:
    return text.encode() + b"\0"
