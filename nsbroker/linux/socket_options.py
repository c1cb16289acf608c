"""What the kernel knows of a socket: its network namespace, and of an AF_UNIX one the process at the other end, and what
that has not read yet.

Who the other end is, is of the time of connect(2) (or socketpair(2)): the process may since have ended, changed its uid,
or passed the socket on.
"""

import array
import ctypes
import errno
import fcntl
import socket
import struct
import sys
from typing import NamedTuple

from nsbroker.linux.libc import check, libc

_SO_PEERGROUPS = 59  # Linux 4.13
_SO_PEERPIDFD = 77  # Linux 6.5
_SIOCOUTQ = 0x5411
_FIONREAD = 0x541B
_SIOCGSKNS = 0x894C  # Linux 4.10

_PYTHON_MAX = 1024

_UCRED = struct.Struct("=iII")


class Credentials(NamedTuple):
    """SO_PEERCRED, translated into the namespaces of the reader: pid 0 is a process that it cannot see."""

    pid: int
    uid: int
    gid: int


def peer_credentials(sock: socket.socket) -> Credentials:
    """SO_PEERCRED (unix(7))."""
    return Credentials(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def peer_groups(sock: socket.socket) -> tuple[int, ...]:
    """SO_PEERGROUPS: the peer's supplementary groups.  Linux 4.13."""
    try:
        answer = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _PYTHON_MAX)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        answer = _many_peer_groups(sock)
    return tuple(array.array("I", answer))


def _many_peer_groups(sock: socket.socket) -> bytes:
    # socket.getsockopt() takes no more than 1024 bytes, 256 groups; a process can have 65536 (NGROUPS_MAX).
    gids = ctypes.create_string_buffer(65536 * array.array("I").itemsize)
    size = ctypes.c_uint32(len(gids))
    check(libc.getsockopt(sock.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, gids, ctypes.byref(size)))
    return gids.raw[: size.value]


def peer_pidfd(sock: socket.socket) -> int:
    """SO_PEERPIDFD: a pidfd (the caller's, close-on-exec) of the very process that connected.  Linux 6.5.

    Raises ENOPROTOOPT on older kernels; ESRCH, EINVAL or (from 6.16 on) nothing for a peer that was reaped: there the
    pidfd is one of a process that is gone.
    """
    return sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)


def unread_bytes(sock: socket.socket) -> int:
    """SIOCOUTQ: the memory of what was sent and the other side has not read; 0 when it has read everything."""
    return int.from_bytes(fcntl.ioctl(sock, _SIOCOUTQ, bytes(4)), sys.byteorder)


def unreceived_bytes(sock: socket.socket) -> int:
    """FIONREAD: the bytes that wait to be received."""
    return int.from_bytes(fcntl.ioctl(sock, _FIONREAD, bytes(4)), sys.byteorder)


def network_namespace(sock: socket.socket | int) -> int:
    """SIOCGSKNS: an nsfs fd (the caller's, close-on-exec) of the network namespace that the socket lives in.  Linux 4.10.

    Raises EPERM without CAP_NET_ADMIN over it.
    """
    return fcntl.ioctl(sock, _SIOCGSKNS)


def lingers(fd: int) -> bool:
    """SO_LINGER: whether closing the socket `fd` may wait."""
    linger = (ctypes.c_int * 2)()
    size = ctypes.c_uint32(ctypes.sizeof(linger))
    check(libc.getsockopt(fd, socket.SOL_SOCKET, socket.SO_LINGER, linger, ctypes.byref(size)))
    return bool(linger[0])
