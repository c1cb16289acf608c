"""How much each user has of the broker: connections, and descriptors sent but not yet read.

A descriptor in flight costs its sender: the kernel puts no limit on a privileged one, so a peer that never reads could
pin any number of files in the broker's name.  What was read is learnt from SIOCOUTQ, asked only when a count runs high:
it tells for a connection as a whole whether all of it was read.
"""

import socket
from dataclasses import dataclass

from nsbroker.daemon.configuration import Limits
from nsbroker.errors import QuotaExceeded
from nsbroker.linux.ancillary import SCM_MAX_FD
from nsbroker.linux.socket_options import unread_bytes


@dataclass(slots=True, eq=False)
class Lease:
    """One connection's share.  Owns nothing; `sock` is borrowed until the lease is given back."""

    uid: int
    sock: socket.socket
    unread: int = 0

    def is_read(self) -> bool:
        """Whether the peer has read everything; resets the count when it has."""
        if self.unread and unread_bytes(self.sock) == 0:
            self.unread = 0
        return self.unread == 0

    def is_full(self) -> bool:
        """Whether so much is unread that the next call has to wait."""
        return self.unread >= SCM_MAX_FD and not self.is_read()


class Ledger:
    """All leases, by user."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.connections = 0
        self._users: dict[int, set[Lease]] = {}
        self._lingering: set[Lease] = set()

    def lease(self, uid: int, sock: socket.socket) -> Lease:
        """A share for a new connection of `uid`.  Raises QuotaExceeded."""
        self._sweep()
        held = len(self._users.get(uid, ()))
        if uid != 0:
            if held >= self.limits.connections_per_user:
                raise QuotaExceeded("connections-per-user")
            if self.connections >= self.limits.connections - self.limits.connections_reserved_for_root:
                raise QuotaExceeded("connections")
        elif self.connections >= self.limits.connections:
            raise QuotaExceeded("connections")
        lease = Lease(uid, sock)
        self._users.setdefault(uid, set()).add(lease)
        self.connections += 1
        return lease

    def check(self, lease: Lease, count: int) -> None:
        """See that `count` more descriptors may be sent.  Raises QuotaExceeded."""
        most = self.limits.unread_descriptors_per_user
        leases = self._users[lease.uid]
        if len(leases) == 1 and lease.unread + count <= most:
            return
        if sum(other.unread for other in leases) + count > most:
            for other in leases:
                other.is_read()
            if sum(other.unread for other in leases) + count > most:
                raise QuotaExceeded("unread-descriptors-per-user")

    def give_back(self, lease: Lease) -> None:
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

    def _forget(self, lease: Lease) -> None:
        self._lingering.discard(lease)
        lease.sock.close()
        self.connections -= 1
        leases = self._users[lease.uid]
        leases.remove(lease)
        if not leases:
            del self._users[lease.uid]
