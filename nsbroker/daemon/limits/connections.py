"""How much each user has of the broker: connections, and descriptors sent but not yet read.

A descriptor in flight costs its sender: the kernel puts no limit on a privileged one, so a peer that never reads could
pin any number of files in the broker's name.  What was read is learnt from SIOCOUTQ, asked only when a count runs high:
it tells for a connection as a whole whether all of it was read.
"""

import socket
import time
from dataclasses import dataclass, field

from nsbroker.daemon.configuration import Limits
from nsbroker.errors import QuotaExceeded
from nsbroker.linux.ancillary import SCM_MAX_FD
from nsbroker.linux.closing import Closer
from nsbroker.linux.socket_options import unread_bytes


@dataclass(slots=True, eq=False)
class _User:
    """What one uid has; `unread` is the sum over its leases."""

    uid: int
    leases: "set[ConnectionCharge]" = field(default_factory=set)
    unread: int = 0


@dataclass(slots=True, eq=False)
class ConnectionCharge:
    """One connection's share.  Owns nothing; `sock` is borrowed until the lease is given back."""

    user: _User
    sock: socket.socket
    unread: int = 0

    def charge(self, count: int) -> None:
        """Count descriptors that are about to be sent."""
        self.unread += count
        self.user.unread += count

    def is_read(self) -> bool:
        """Whether the peer has read everything; resets the count when it has."""
        if self.unread and unread_bytes(self.sock) == 0:
            self.charge(-self.unread)
        return self.unread == 0

    def is_full(self) -> bool:
        """Whether so much is unread that the next call has to wait."""
        return self.unread >= SCM_MAX_FD and not self.is_read()


class UserRegistry:
    """All leases, by user.  `last_left`: when the last connection ended, or the time of the start."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.connections = 0
        self.last_left = time.monotonic()
        self.closer = Closer()
        self._users: dict[int, _User] = {}
        self._lingering: set[ConnectionCharge] = set()

    def lease(self, uid: int, sock: socket.socket) -> ConnectionCharge:
        """A share for a new connection of `uid`.  Raises QuotaExceeded."""
        self._sweep()
        user = self._users.get(uid) or _User(uid)
        if uid != 0 and len(user.leases) >= self.limits.connections_per_user:
            raise QuotaExceeded("connections-per-user")
        reserved = 0 if uid == 0 else self.limits.connections_reserved_for_root
        if self.connections >= self.limits.connections - reserved:
            raise QuotaExceeded("connections")
        lease = ConnectionCharge(user, sock)
        user.leases.add(lease)
        self._users[uid] = user
        self.connections += 1
        return lease

    def check(self, lease: ConnectionCharge, count: int) -> None:
        """See that `count` more descriptors may be sent.  Raises QuotaExceeded."""
        user, most = lease.user, self.limits.unread_descriptors_per_user
        if user.unread + count <= most:
            return
        for other in user.leases:
            other.is_read()
        if user.unread + count > most:
            raise QuotaExceeded("unread-descriptors-per-user")

    def give_back(self, lease: ConnectionCharge) -> None:
        """The connection is over; takes its socket.  As long as something is unread it stays open, shut down, and counts."""
        if lease.is_read():
            self._forget(lease)
            return
        try:
            lease.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            self._forget(lease)
        else:
            self._lingering.add(lease)

    def close(self) -> None:
        """Close the sockets that linger."""
        for lease in list(self._lingering):
            self._forget(lease)

    def _sweep(self) -> None:
        for lease in [lease for lease in self._lingering if lease.is_read()]:
            self._forget(lease)

    def _forget(self, lease: ConnectionCharge) -> None:
        self._lingering.discard(lease)
        self.closer.hang_up(lease.sock)
        self.connections -= 1
        self.last_left = time.monotonic()
        lease.charge(-lease.unread)
        lease.user.leases.remove(lease)
        if not lease.user.leases:
            del self._users[lease.user.uid]
