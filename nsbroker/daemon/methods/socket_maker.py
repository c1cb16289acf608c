"""Making a socket inside a network namespace, in the name of the peer.

The socket is the same as if the peer had made it inside.  It belongs to the peer's uid, which firewalls, SO_REUSEPORT and
/proc/net/tcp look at.  It is made without capabilities, because by those of its maker the kernel decides what may be changed
through a netlink socket.  The capability for a mark is used only after the socket was made.  It is given to nobody before the
kernel has confirmed, for the socket itself, its network namespace and its owner.

The event loop's own thread makes it: it enters the namespace, takes the peer's credentials, makes the socket and goes back, and
nothing is awaited in between.  If it cannot go back, the process ends.  A new thread does the same, and ends afterwards, for what
may have to wait: a socket that is marked, the first one of its kind, for which the kernel may load a module, and one of a peer that
has very many groups.
"""

import errno
import os
import socket
import struct
from typing import NamedTuple

from nsbroker.daemon.methods.call import reason_of
from nsbroker.daemon.methods.host_networks import HostNetworks
from nsbroker.daemon.methods.visits import Visits
from nsbroker.daemon.peer import Maker
from nsbroker.daemon.policy.permission import Mark, Permission
from nsbroker.daemon.targets.pinned import Pinned
from nsbroker.errors import SocketFailed
from nsbroker.inside import in_place
from nsbroker.linux.capabilities import CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, CAP_NET_RAW, use_only
from nsbroker.linux.credentials import acting_groups
from nsbroker.linux.socket_options import network_namespace
from nsbroker.model.identity import format_id
from nsbroker.model.socket_failure import REASONS
from nsbroker.model.socket_kind import SocketFamily, SocketKind, SocketType
from nsbroker.namespace import Namespace

# At most this many threads are inside namespaces at one time.
_VISITS_MAX = 32
# With more groups than this, changing them takes so long that others would notice: with 65536, more than 20 ms.
_GROUPS_MAX = 1000
# At most this many kinds of socket are remembered for which the kernel has all modules.
_LOADED_MAX = 256


class WantedSocket(NamedTuple):
    """The socket that a call wants.  `address` is what it is bound to, and `mark` its SO_MARK, if it wants that."""

    kind: SocketKind
    protocol: int
    address: tuple[str, int] | None
    mark: int | None

    def permissions(self) -> tuple[Permission, ...]:
        """Return what rules must allow for it."""
        return (self.kind,) if self.mark is None else (self.kind, Mark(self.mark))

    def module(self) -> tuple[SocketFamily, SocketType, int]:
        """Return what decides which modules the kernel needs for it."""
        return self.kind.family, self.kind.type, self.protocol


class SocketMaker:
    """Makes sockets inside namespaces."""

    def __init__(self) -> None:
        self._visits = Visits(_VISITS_MAX)
        self._host_networks = HostNetworks()
        self._loaded: set[tuple[SocketFamily, SocketType, int]] = set()

    def takes_time(self, maker: Maker, wanted: WantedSocket) -> bool:
        """Return whether making this socket for `maker` can take longer than other clients should wait.  Use `make` then."""
        return wanted.mark is not None or wanted.module() not in self._loaded or len(maker.groups) > _GROUPS_MAX

    def make_at_once(self, pinned: Pinned, ns: Namespace, maker: Maker, wanted: WantedSocket) -> socket.socket:
        """Make a socket, which does not take time, in `ns` (borrowed) that belongs to `maker`.  It is the caller's to close.

        Raises SocketFailed, NoSuchTarget for the host's network, and the errors of entering.
        """
        try:
            sock = in_place.call(ns, lambda: self._make_inside(pinned, ns, maker, wanted))
        except OSError as error:
            raise SocketFailed(pinned.target, str(wanted.kind), reason_of(error, REASONS)) from error
        return _check(sock, ns, maker)

    async def make(self, pinned: Pinned, ns: Namespace, maker: Maker, wanted: WantedSocket) -> socket.socket:
        """Do the same as `make_at_once` for any socket, on a thread."""
        try:
            # If the thread could not switch back, _check decides whether the socket can be used.
            sock = await self._visits.call(ns, lambda: self._make_inside(pinned, ns, maker, wanted))
        except OSError as error:
            raise SocketFailed(pinned.target, str(wanted.kind), reason_of(error, REASONS)) from error
        if len(self._loaded) >= _LOADED_MAX:
            self._loaded.clear()
        self._loaded.add(wanted.module())
        return _check(sock, ns, maker)

    def _make_inside(self, pinned: Pinned, ns: Namespace, maker: Maker, wanted: WantedSocket) -> socket.socket:
        """Make the socket as the user `maker`.  The calling thread must be inside `ns` (borrowed)."""
        self._host_networks.check(pinned, ns, "connect directly")
        return _make_as(maker, wanted)


def _make_as(maker: Maker, wanted: WantedSocket) -> socket.socket:
    # Groups give rights too: ping sockets, for example, are for certain groups (net.ipv4.ping_group_range in icmp(7)).
    with acting_groups(maker.groups), maker.credentials:
        # Acting as somebody else, the thread has no capability.
        if needed := _capabilities(wanted.kind):
            use_only(needed)
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


def _check(sock: socket.socket, ns: Namespace, maker: Maker) -> socket.socket:
    """Return `sock` (taken, also on error) after the kernel has confirmed that it is in `ns` (borrowed) and belongs to `maker`."""
    try:
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
    except BaseException:
        sock.close()
        raise
    return sock
