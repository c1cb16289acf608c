"""Reading what the kernel knows about a socket: its network namespace, its queues, and the peer of an AF_UNIX socket.

The kernel records the peer at the time of connect(2) or socketpair(2).  Since then, that process may have ended, changed
its uid, or passed the socket on.
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
_SO_NETNS_COOKIE = 71  # Linux 5.14
_SO_PEERPIDFD = 77  # Linux 6.5
_SIOCOUTQ = 0x5411
_FIONREAD = 0x541B
_SIOCGSKNS = 0x894C  # Linux 4.10

_PYTHON_MAX = 1024

_UCRED = struct.Struct("=iII")


class Credentials(NamedTuple):
    """The result of SO_PEERCRED, translated into the reader's namespaces; pid 0 is a process that the reader cannot see."""

    pid: int
    uid: int
    gid: int


def peer_credentials(sock: socket.socket) -> Credentials:
    """SO_PEERCRED: return the peer's credentials (unix(7))."""
    return Credentials(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def peer_groups(sock: socket.socket) -> "array.array[int]":
    """SO_PEERGROUPS: return the peer's supplementary groups, of which there can be 65536.  Linux 4.13."""
    try:
        gids = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _PYTHON_MAX)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        gids = _read_many_groups(sock)
    return array.array("I", gids)


def _read_many_groups(sock: socket.socket) -> bytes:
    # Python's socket.getsockopt() accepts at most 1024 bytes, or 256 groups.  A process can have 65536 (NGROUPS_MAX).
    gids = ctypes.create_string_buffer(65536 * array.array("I").itemsize)
    size = ctypes.c_uint32(len(gids))
    check(libc.getsockopt(sock.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, gids, ctypes.byref(size)))
    return gids.raw[: size.value]


def peer_pidfd(sock: socket.socket) -> int:
    """SO_PEERPIDFD: return a pidfd (the caller's, close-on-exec) of exactly the process that connected.  Linux 6.5.

    Raises ENOPROTOOPT on older kernels.  For a peer that was reaped, it raises ESRCH or EINVAL before Linux 6.16; since then
    it returns a pidfd of the process that is gone.
    """
    return sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)


def unread_bytes(sock: socket.socket) -> int:
    """SIOCOUTQ: return the memory, in bytes, of data that was sent and that the peer has not read; 0 when it has read all."""
    return int.from_bytes(fcntl.ioctl(sock, _SIOCOUTQ, bytes(4)), sys.byteorder)


def unreceived_bytes(sock: socket.socket) -> int:
    """FIONREAD: return the number of bytes that wait to be received."""
    return int.from_bytes(fcntl.ioctl(sock, _FIONREAD, bytes(4)), sys.byteorder)


def network_namespace(sock: socket.socket | int) -> int:
    """SIOCGSKNS: return an nsfs fd (the caller's, close-on-exec) of the socket's network namespace.  Linux 4.10.

    Raises EPERM without CAP_NET_ADMIN over that namespace.
    """
    return fcntl.ioctl(sock, _SIOCGSKNS)


def netns_cookie(sock: socket.socket) -> int:
    """SO_NETNS_COOKIE: return the number of the socket's network namespace, which is never used again.  Linux 5.14.

    It takes no privilege.  Raises ENOPROTOOPT on older kernels.
    """
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)


def lingers(fd: int) -> bool:
    """SO_LINGER: return whether closing the socket `fd` (borrowed) can block."""
    linger = (ctypes.c_int * 2)()
    size = ctypes.c_uint32(ctypes.sizeof(linger))
    check(libc.getsockopt(fd, socket.SOL_SOCKET, socket.SO_LINGER, linger, ctypes.byref(size)))
    return bool(linger[0])
