"""How much each user has of the broker: connections, and descriptors sent but not yet read.

A descriptor in flight costs its sender: the kernel puts no limit on a privileged one, so a peer that never reads could
pin any number of files in the broker's name.  What was read is learnt from SIOCOUTQ, asked only when a count runs high:
it tells for a connection as a whole whether all of it was read.
"""

import enum
import socket
import time
from dataclasses import dataclass, field

import trio

from nsbroker.daemon.configuration import Limits
from nsbroker.daemon.limits.users import ROOT
from nsbroker.errors import QuotaExceeded
from nsbroker.linux.ancillary import SCM_MAX_FD
from nsbroker.linux.closing import Closer, Closing
from nsbroker.linux.socket_options import unread_bytes

# Seconds until it is looked again whether what lingers has been read.
_SWEEP = 0.01


class _State(enum.Enum):
    """How far the life of a connection is."""

    SERVED = "served"
    LINGERING = "shut down, and open until the peer has read what it was sent"
    CLOSING = "being closed, which takes a while"


@dataclass(slots=True, eq=False)
class User:
    """What one user has; `unread` is the sum over its connections."""

    number: int
    charges: "set[ConnectionCharge]" = field(default_factory=set)
    unread: int = 0
    evicted: int = 0

    def standing(self) -> int:
        """How many connections count for who has the most."""
        return len(self.charges) - self.evicted


@dataclass(slots=True, eq=False)
class ConnectionCharge:
    """One connection, as it is charged to its user.

    Owns nothing; `sock` is borrowed until the charge is given back.  `scope` is what the connection is served within, and
    cancelling it ends the connection.  `busy` is set while a call is under way, `last_used` when something last came.
    `evicted`: it was told to end, to make room, and counts no longer for who has the most.
    """

    user: User
    sock: socket.socket
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    unread: int = 0
    busy: bool = False
    last_used: float = 0.0
    state: _State = _State.SERVED
    evicted: bool = False

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
    """All connections, by user.  `last_left`: when the last connection ended, or the time of the start."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.last_left = time.monotonic()
        self.closer = Closer()
        self._users: dict[int, User] = {}
        self._count = 0
        self._evicted = 0
        self._lingering: set[ConnectionCharge] = set()
        self._closing: dict[ConnectionCharge, Closing] = {}
        self._swept = 0.0

    @property
    def connections(self) -> int:
        """How many there are, with those that end but still keep something of the broker's."""
        self._sweep()
        return self._count

    def admit(self, number: int, sock: socket.socket) -> ConnectionCharge:
        """Charge a new connection (borrows `sock`) to the user `number`.

        When there is no room left, the idlest connection of the user with the most makes room, unless the newcomer would
        then have as many.  Raises QuotaExceeded.
        """
        now = time.monotonic()
        if now - self._swept > _SWEEP:
            self._sweep()
            self._swept = now
        user = self._users.get(number) or User(number)
        if number != ROOT and len(user.charges) >= self.limits.connections_per_user:
            raise QuotaExceeded("connections-per-user")
        reserved = 0 if number == ROOT else self.limits.connections_reserved_for_root
        if self._count - self._evicted >= self.limits.connections - reserved and not self._make_room(user):
            raise QuotaExceeded("connections")
        charge = ConnectionCharge(user, sock, last_used=now)
        user.charges.add(charge)
        self._users[number] = user
        self._count += 1
        return charge

    def check(self, charge: ConnectionCharge, count: int) -> None:
        """Check that `count` more descriptors may be sent.  Raises QuotaExceeded."""
        user, most = charge.user, self.limits.unread_descriptors_per_user
        if user.unread + count <= most:
            return
        for other in user.charges:
            if other.state is not _State.CLOSING:
                other.is_read()
        if user.unread + count > most:
            raise QuotaExceeded("unread-descriptors-per-user")

    def give_back(self, charge: ConnectionCharge) -> None:
        """The connection is over; takes its socket.  As long as something is unread it stays open, shut down, and counts."""
        if charge.is_read():
            self._hang_up(charge)
            return
        try:
            charge.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            self._hang_up(charge)
        else:
            charge.state = _State.LINGERING
            self._lingering.add(charge)

    def close(self) -> None:
        """Close the sockets that linger."""
        for charge in list(self._lingering):
            self._hang_up(charge)

    def served(self) -> list[ConnectionCharge]:
        """The connections that are still served."""
        return [charge for user in self._users.values() for charge in user.charges if charge.state is _State.SERVED]

    def _make_room(self, newcomer: User) -> bool:
        """End one connection of the user who has the most (never root); whether that was fair and could be done."""
        others = (user for user in self._users.values() if user.number != ROOT)
        most = max(others, key=User.standing, default=None)
        if most is None or (newcomer.number != ROOT and most.standing() <= newcomer.standing() + 1):
            return False
        served = (one for one in most.charges if one.state is _State.SERVED and not one.evicted)
        idlest = min(served, key=lambda one: (one.busy, one.last_used), default=None)
        if idlest is None:
            return False
        idlest.evicted = True
        most.evicted += 1
        self._evicted += 1
        idlest.scope.cancel()
        return True

    def _sweep(self) -> None:
        for charge in [charge for charge in self._lingering if charge.is_read()]:
            self._hang_up(charge)
        for charge in [charge for charge, closing in self._closing.items() if closing.done]:
            del self._closing[charge]
            self._forget(charge)

    def _hang_up(self, charge: ConnectionCharge) -> None:
        self._lingering.discard(charge)
        closing = self.closer.hang_up(charge.sock, charge.user.number)
        charge.charge(-charge.unread)
        if closing is None:
            self._forget(charge)
        else:
            charge.state = _State.CLOSING
            self._closing[charge] = closing

    def _forget(self, charge: ConnectionCharge) -> None:
        if charge.evicted:
            charge.user.evicted -= 1
            self._evicted -= 1
        self._count -= 1
        self.last_left = time.monotonic()
        charge.user.charges.remove(charge)
        if not charge.user.charges:
            del self._users[charge.user.number]
