"""The method OpenSocket: a socket in the network namespace of a target.

A new thread enters the namespace, takes the peer's credentials, makes the socket, goes back and ends.  A thread that was inside a
namespace never serves anything else.  The socket is the same as if the peer had made it inside.  It belongs to the peer's uid,
which firewalls, SO_REUSEPORT and /proc/net/tcp look at.  It has none of the broker's capabilities, by which the kernel decides
what may be changed through a netlink socket; also when the broker marks it, for which a right is used only after it was made.  It
is handed over only after the kernel has confirmed, for the socket itself, its network namespace and its owner.
"""

import errno
import ipaddress
import os
import socket
import struct
from typing import NamedTuple, cast

import trio

import nsbroker.inside.trio
from nsbroker.daemon.audit import Audit
from nsbroker.daemon.context import Context
from nsbroker.daemon.limits.rate_limit import Pace
from nsbroker.daemon.limits.users import ROOT
from nsbroker.daemon.methods.authorization import Authorization, begin
from nsbroker.daemon.methods.call import Caller, PendingReply, Reply, reason_of
from nsbroker.daemon.methods.host_networks import HostNetworks
from nsbroker.daemon.peer import Maker
from nsbroker.daemon.policy.permission import MARK_MAX, Mark, Permission
from nsbroker.daemon.targets.pinned import Pinned
from nsbroker.errors import InvalidParameter, NoSuchTarget, ReturnFailed, SocketFailed
from nsbroker.linux.capabilities import CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, CAP_NET_RAW, use_only
from nsbroker.linux.credentials import set_groups
from nsbroker.linux.socket_options import network_namespace
from nsbroker.model.identity import format_id
from nsbroker.model.socket_failure import REASONS
from nsbroker.model.socket_kind import SocketFamily, SocketKind, SocketType
from nsbroker.namespace import Namespace
from nsbroker.protocol.messages import OpenSocketReply, OpenSocketRequest, SocketAddress
from nsbroker.varlink.connection import IncomingCall

# At most this many threads are inside namespaces at one time.
_VISITS_MAX = 32
_PORT_MAX = 65535
_PROTOCOL_MAX = 2**31 - 1


class _WantedSocket(NamedTuple):
    """The socket that a call wants.  `address` is what it is bound to, and `mark` its SO_MARK, if it wants that."""

    kind: SocketKind
    protocol: int
    address: tuple[str, int] | None
    mark: int | None

    def permissions(self) -> tuple[Permission, ...]:
        """Return what rules must allow for it."""
        return (self.kind,) if self.mark is None else (self.kind, Mark(self.mark))


class OpenSocketMethod:
    """Answers calls to OpenSocket."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._visits = trio.CapacityLimiter(_VISITS_MAX)
        self._host_networks = HostNetworks()
        self._pace = Pace(context.users.limits.sockets_per_user)

    def open_socket(self, caller: Caller, call: IncomingCall, request: OpenSocketRequest) -> PendingReply:
        """Make a socket inside the target's network namespace."""
        protocol = request.protocol or 0
        if not 0 <= protocol <= _PROTOCOL_MAX:
            raise InvalidParameter("protocol")
        address = _parse_bind_address(request)
        if request.mark is not None and not 0 < request.mark <= MARK_MAX:
            raise InvalidParameter("mark")
        kind = SocketKind.bound(request.family, request.type, address[1] if address else 0)
        wanted = _WantedSocket(kind, protocol, address, request.mark)
        permissions = wanted.permissions()
        details = " ".join(map(str, permissions))
        authorization = begin(
            self._context, "OpenSocket", caller, call, request.target, permissions, hands_over=True, details=details
        )
        return self._open(caller, authorization, wanted)

    async def _open(self, caller: Caller, authorization: Authorization, wanted: _WantedSocket) -> Reply:
        async with authorization as pinned:
            if caller.peer.user != ROOT:
                await self._keep_pace(caller.peer.user)
            with authorization.open_network() as ns:
                sock = await self._make_inside(pinned, ns, caller.peer.maker, wanted)
            authorization.on_failure(sock.close)
        return Reply(OpenSocketReply(0), [sock.detach()], closing_waits=True)

    async def _keep_pace(self, user: int) -> None:
        """Count one socket of the user, and wait until the user is within the limit.

        A program that may have no more sockets for a moment would fail.  One that waits does not even notice.
        """
        self._pace.most = self._context.users.limits.sockets_per_user
        self._pace.charge(user)
        delay = self._pace.delay(user)
        if delay:
            await trio.sleep(delay)

    async def _make_inside(self, pinned: Pinned, ns: Namespace, maker: Maker, wanted: _WantedSocket) -> socket.socket:
        """Make a socket in `ns` (borrowed) that belongs to `maker`, and check that it does.  It is the caller's to close."""

        def make() -> socket.socket:
            if pinned.is_process and self._host_networks.may_be(ns):
                raise NoSuchTarget(pinned.target, "it has no network namespace of its own, but uses the host's: connect directly")
            return _make_socket_as(maker, wanted)

        try:
            async with self._visits:
                # If this is cancelled, the socket that the thread makes is dropped, and the garbage collector closes it.
                sock = await nsbroker.inside.trio.call([ns], make)
        except ReturnFailed as error:
            # The thread could not switch back and has ended.  _check_socket decides whether the socket can be used.
            Audit.say(f"internal error: {error}")
            sock = cast(socket.socket, error.result)
        except OSError as error:
            raise SocketFailed(pinned.target, str(wanted.kind), reason_of(error, REASONS)) from error
        try:
            _check_socket(sock, ns, maker)
        except BaseException:
            sock.close()
            raise
        return sock


def _make_socket_as(maker: Maker, wanted: _WantedSocket) -> socket.socket:
    """Make the socket as the user `maker`.  This runs inside the namespace, on a thread that ends afterwards."""
    # Groups give rights too: ping sockets, for example, are for certain groups (net.ipv4.ping_group_range in icmp(7)).  If the
    # thread has no group that the peer lacks, nothing needs to be dropped; inside a user namespace nothing could be.
    if not set(os.getgroups()).issubset(maker.groups):
        set_groups(maker.groups)
    with maker.credentials:
        use_only(_capabilities(wanted.kind))
        sock = _create_socket(wanted.kind, wanted.protocol, wanted.address)
        try:
            if wanted.mark is not None:
                _set_mark(sock, wanted.mark)
        except BaseException:
            sock.close()
            raise
        return sock


def _capabilities(kind: SocketKind) -> int:
    """Return the capabilities, as a bit mask, that are needed to make a socket of this kind."""
    raw = CAP_NET_RAW if kind.family is SocketFamily.PACKET or kind.type is SocketType.RAW else 0
    # Netlink sockets need no capability, although they may be of type raw.
    raw = 0 if kind.family is SocketFamily.NETLINK else raw
    return raw | (CAP_NET_BIND_SERVICE if kind.port else 0)


def _create_socket(kind: SocketKind, protocol: int, address: tuple[str, int] | None) -> socket.socket:
    sock = socket.socket(kind.family.number, kind.type.number, protocol)
    try:
        if address is not None:
            if kind.type is SocketType.STREAM:
                # A server that restarts can use its port again at once.  socket.create_server() does the same.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _set_mark(sock: socket.socket, mark: int) -> None:
    """Set SO_MARK of `sock` (borrowed), with the one capability that the kernel wants for it.  Raises OSError.

    The kernel remembers the capabilities with which a socket was made, so the thread must not have had this one by then.
    """
    # Since Linux 5.17, CAP_NET_RAW is enough.
    for capability in (CAP_NET_RAW, CAP_NET_ADMIN):
        use_only(capability)
        try:
            # Python's own int is signed, and the mark is not.
            return sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("=I", mark))
        except PermissionError:
            continue
    raise OSError(errno.EPERM, "the broker itself may not set marks (CapabilityBoundingSet= of its unit)")


def _check_socket(sock: socket.socket, ns: Namespace, maker: Maker) -> None:
    fd = network_namespace(sock)
    try:
        facts = os.fstat(fd)
    finally:
        os.close(fd)
    if (facts.st_dev, facts.st_ino) != (ns.device, ns.inode):
        raise RuntimeError(f"a socket for {ns} was created in {format_id('net', facts.st_ino)}")
    uid = os.fstat(sock.fileno()).st_uid
    if uid != maker.credentials.uid:
        raise RuntimeError(f"a socket for uid {maker.credentials.uid} belongs to uid {uid}")


def _parse_bind_address(request: OpenSocketRequest) -> tuple[str, int] | None:
    """Return the address and port that the request wants the socket bound to, or None.  Raises InvalidParameter."""
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
