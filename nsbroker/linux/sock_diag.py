"""The TCP sockets of a network, counted by their states through a netlink socket in it: see sock_diag(7) and netlink(7).

The kernel usually keeps the connections of all networks in one table, whose size depends on the memory of the host, and looks at
all of it for one network.  For this request it does so once for IPv4 and IPv6.  Reading /proc/net/tcp takes ten times as long.
"""

import contextlib
import os
import struct
from socket import MSG_DONTWAIT, socket

PROTOCOL = 4
"""NETLINK_SOCK_DIAG, the protocol of the netlink socket."""
STATES = (
    "established",
    "syn_sent",
    "syn_recv",
    "fin_wait1",
    "fin_wait2",
    "time_wait",
    "close",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
)
"""The names of the states, from 1 (TCP_ESTABLISHED) on."""

# The request of the first version, in <linux/inet_diag.h>, is for both families.  That of the second version is for one.
_TCPDIAG_GETSOCK = 18
_NLM_F_REQUEST = 0x1
_NLM_F_DUMP = 0x300
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_HEADER = struct.Struct("=IHHII")
# struct inet_diag_req: the family and what follows it, the addresses, the states that are wanted, and an interface.
_REQUEST = struct.Struct("=4x48xII")
_ALL_STATES = (1 << len(STATES) + 1) - 1
_ERROR = struct.Struct("=i")
# The second byte of struct inet_diag_msg.
_STATE = _HEADER.size + 1
_READ_SIZE = 1 << 16


def tcp_states(sock: socket) -> dict[str, int]:
    """Return the number of TCP sockets in each of STATES, for IPv4 and IPv6 together, in the network of `sock` (borrowed).

    `sock` must have no timeout of Python's; SO_RCVTIMEO is one that works here (EAGAIN).  Connect it to the kernel, which has the
    address (0, 0), because otherwise it also receives what root of the network sends to it.  Raises OSError: ENOENT when the kernel
    has no tcp_diag; ValueError for an answer that makes no sense.
    """
    # The kernel refuses a request (EBUSY) while somebody has not waited for the end of the last answer.
    with contextlib.suppress(BlockingIOError):
        while sock.recv(_READ_SIZE, MSG_DONTWAIT):
            pass
    size = _HEADER.size + _REQUEST.size
    header = _HEADER.pack(size, _TCPDIAG_GETSOCK, _NLM_F_REQUEST | _NLM_F_DUMP, 0, 0)
    sock.send(header + _REQUEST.pack(_ALL_STATES, 0))
    counts = [0] * (len(STATES) + 1)
    while True:
        data = sock.recv(_READ_SIZE)
        if _count(data, counts):
            return dict(zip(STATES, counts[1:], strict=True))


def _count(data: bytes, counts: list[int]) -> bool:
    """Count the sockets in one piece of the answer.  Return whether it is the last piece."""
    at, end = 0, len(data)
    while at < end:
        if end - at < _HEADER.size:
            raise ValueError("the kernel's answer about TCP sockets is cut off")
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > end:
            raise ValueError("the kernel's answer about TCP sockets makes no sense")
        if kind == _NLMSG_DONE:
            return True
        if length < _HEADER.size + _ERROR.size:
            raise ValueError("the kernel's answer about TCP sockets makes no sense")
        if kind == _NLMSG_ERROR:
            error = -_ERROR.unpack_from(data, at + _HEADER.size)[0]
            raise OSError(error, os.strerror(error))
        state = data[at + _STATE]
        if state < len(counts):
            counts[state] += 1
        at += length + 3 & ~3
    return False
