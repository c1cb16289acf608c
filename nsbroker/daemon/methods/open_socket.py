"""The verb OpenSocket: a socket that lives in the network namespace of a target.

A thread of its own enters, takes the peer's credentials, makes the socket, goes back and ends: no thread that was inside
ever serves anything else.  The socket is the peer's as if the peer had made it itself inside: it belongs to the peer's uid,
which firewalls, SO_REUSEPORT and /proc/net/tcp go by, and it carries no capability of the broker's, by which the kernel
decides what may be changed through a netlink socket.  It is handed over only when the kernel says of the socket itself
that it is where it should be, and whose it should be.
"""

import errno
import ipaddress
import os
import socket
from collections.abc import Mapping
from typing import cast

import trio

import nsbroker.inside.trio
from nsbroker.daemon.audit import Audit
from nsbroker.daemon.context import Parts
from nsbroker.daemon.methods.authorization import Inquiry, inquire
from nsbroker.daemon.methods.call import Answer, Caller, Later
from nsbroker.daemon.methods.host_networks import HostNetworks
from nsbroker.daemon.peer import Maker
from nsbroker.daemon.targets.pinned import Pinned
from nsbroker.errors import InvalidParameter, NoSuchTarget, PermissionDenied, ReturnFailed, SocketFailed
from nsbroker.linux.capabilities import CAP_NET_BIND_SERVICE, CAP_NET_RAW, use_only
from nsbroker.linux.credentials import set_groups
from nsbroker.linux.socket_options import network_namespace
from nsbroker.model.identity import NamespaceType
from nsbroker.model.socket_kind import SocketFamily, SocketKind, SocketType
from nsbroker.namespace import Namespace
from nsbroker.protocol.messages import OpenSocketReply, OpenSocketRequest, SocketAddress
from nsbroker.varlink.connection import IncomingCall

# Threads that are inside at one time.
_VISITS_MAX = 32
_PORT_MAX = 65535
_PROTOCOL_MAX = 2**31 - 1
_REASONS: Mapping[int, str] = {
    errno.EAFNOSUPPORT: "this kernel has no sockets of that family",
    errno.ESOCKTNOSUPPORT: "this kernel has no sockets of that type in that family",
    errno.EPROTONOSUPPORT: "the family has no such protocol for that type",
    errno.EADDRINUSE: "something else is bound to that address and port",
    errno.EADDRNOTAVAIL: "no interface inside has that address",
}


class Sockets:
    """Answers calls for sockets."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._visits = trio.CapacityLimiter(_VISITS_MAX)
        self._hosts = HostNetworks()

    def open(self, caller: Caller, call: IncomingCall, request: OpenSocketRequest) -> Later:
        """Make a socket."""
        protocol = request.protocol or 0
        if not 0 <= protocol <= _PROTOCOL_MAX:
            raise InvalidParameter("protocol")
        address = _checked_address(request)
        kind = SocketKind.bound(request.family, request.type, address[1] if address else 0)
        inquiry = inquire(self._parts, "OpenSocket", caller, call, request.target, (kind,))
        inquiry.details = str(kind)
        return self._open(caller, inquiry, kind, protocol, address)

    async def _open(
        self, caller: Caller, inquiry: Inquiry, kind: SocketKind, protocol: int, address: tuple[str, int] | None
    ) -> Answer:
        with inquiry:
            pinned = await inquiry.pin()
            try:
                if not inquiry.judge(pinned).allowed:
                    raise PermissionDenied
                self._parts.users.check(caller.charge, 1)
                [space] = inquiry.open(pinned, [NamespaceType.NET])
                maker = caller.peer.maker
                with space, await self._make(pinned, space, maker, kind, protocol, address) as sock:
                    pinned.see_unchanged()
                    inquiry.succeed([space])
                    return Answer(OpenSocketReply(0), [sock.detach()], closing_waits=True)
            finally:
                pinned.close()

    async def _make(
        self, pinned: Pinned, space: Namespace, maker: Maker, kind: SocketKind, protocol: int, address: tuple[str, int] | None
    ) -> socket.socket:
        """A socket of `maker`'s that was proved to be in `space` (borrowed)."""

        def make() -> socket.socket:
            if pinned.is_process and self._hosts.may_be(space):
                raise NoSuchTarget(pinned.target, "it has no network namespace of its own, it is in the host's: connect directly")
            return _make_as(maker, kind, protocol, address)

        try:
            async with self._visits:
                # Cancelled, it drops what the thread makes, and a socket that is dropped closes.
                sock = await nsbroker.inside.trio.call([space], make)
        except ReturnFailed as error:
            # The thread is gone; what it made is where it should be, or it is not.
            Audit.say(f"fault: {error}")
            sock = cast(socket.socket, error.result)
        except OSError as error:
            raise SocketFailed(pinned.target, str(kind), _REASONS.get(error.errno or 0) or error.strerror or str(error)) from error
        try:
            _check_made(sock, space, maker)
        except BaseException:
            sock.close()
            raise
        return sock


def _make_as(maker: Maker, kind: SocketKind, protocol: int, address: tuple[str, int] | None) -> socket.socket:
    """Make the socket; runs inside, on a thread that ends afterwards."""
    # ping(8)'s sockets, for one, are for groups (net.ipv4.ping_group_range in icmp(7)).  Where the thread has none that the
    # peer lacks there is nothing to take away, and in a user namespace nothing can be.
    if not set(os.getgroups()).issubset(maker.groups):
        set_groups(maker.groups)
    with maker.credentials:
        use_only(_capabilities(kind))
        return _socket(kind, protocol, address)


def _capabilities(kind: SocketKind) -> int:
    """What making a socket of this kind takes."""
    raw = CAP_NET_RAW if kind.family is SocketFamily.PACKET or kind.type is SocketType.RAW else 0
    # Anybody may make netlink sockets, which are of the type raw as often as not.
    raw = 0 if kind.family is SocketFamily.NETLINK else raw
    return raw | (CAP_NET_BIND_SERVICE if kind.port else 0)


def _socket(kind: SocketKind, protocol: int, address: tuple[str, int] | None) -> socket.socket:
    sock = socket.socket(kind.family.number, kind.type.number, protocol)
    try:
        if address is not None:
            if kind.type is SocketType.STREAM:
                # As the standard library's create_server(): a server that is restarted finds its port free.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _check_made(sock: socket.socket, space: Namespace, maker: Maker) -> None:
    fd = network_namespace(sock)
    try:
        facts = os.fstat(fd)
    finally:
        os.close(fd)
    if (facts.st_dev, facts.st_ino) != (space.device, space.inode):
        raise RuntimeError(f"a socket for {space} came to life in net:[{facts.st_ino}]")
    uid = os.fstat(sock.fileno()).st_uid
    if uid != maker.credentials.uid:
        raise RuntimeError(f"a socket for uid {maker.credentials.uid} came to life as uid {uid}'s")


def _checked_address(request: OpenSocketRequest) -> tuple[str, int] | None:
    """Where to bind, of a request that wants it.  Raises InvalidParameter."""
    bind: SocketAddress | None = request.bind
    if bind is None:
        return None
    versions = {SocketFamily.INET: 4, SocketFamily.INET6: 6}
    try:
        if ipaddress.ip_address(bind.address).version != versions.get(request.family) or request.type is SocketType.RAW:
            raise ValueError
    except ValueError as error:
        raise InvalidParameter("bind.address") from error
    if not 0 < bind.port <= _PORT_MAX:
        raise InvalidParameter("bind.port")
    return bind.address, bind.port
