"""Limits of each user's connections, and of the descriptors that were sent to the user but not yet read.

The kernel counts a descriptor in flight to its sender, and sets no limit for a privileged sender.  A peer that never reads could
thus keep any number of files open at the broker's expense.  SIOCOUTQ shows for a whole connection whether everything sent has
been read; it is only called when the count is high.
"""

import enum
import socket
import time

import trio
from msgspec import Struct, field

from nsbroker.daemon.configuration import Limits
from nsbroker.daemon.limits.users import ROOT
from nsbroker.errors import QuotaExceeded
from nsbroker.linux.ancillary import SCM_MAX_FD
from nsbroker.linux.closing import Closer, Closing
from nsbroker.linux.socket_options import unread_bytes

# Seconds between two checks whether the peers of lingering connections have read everything.
_SWEEP = 0.01


class _State(enum.Enum):
    """The state of a connection."""

    SERVED = "served"
    LINGERING = "shut down, but open until the peer has read everything it was sent"
    CLOSING = "being closed on a thread, since closing it may block"


class User(Struct, eq=False):
    """What one user has of the broker.

    `charges` are its connections, `unread` is the number of unread descriptors on all of them, and `evicted` counts the
    connections that were ended to make room.
    """

    number: int
    charges: "set[ConnectionCharge]" = set()
    unread: int = 0
    evicted: int = 0

    def standing(self) -> int:
        """Return the number of connections, without those that have been told to end to make room."""
        return len(self.charges) - self.evicted


class ConnectionCharge(Struct, eq=False):
    """One connection, as it is charged to its user.

    Owns nothing; `sock` is borrowed until the charge is given back.  The connection is served within `scope`: cancelling it
    ends the connection.  `unread` counts the descriptors that the peer has not read, also `unsent` ones, which wait in replies for
    calls that came together.  `busy` is True while a call is being answered, and `last_used` is when data last came
    (time.monotonic()).  `evicted` is True when the connection was told to end to make room; it then no longer counts when the
    user with the most connections is looked for.
    """

    user: User
    sock: socket.socket
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    unread: int = 0
    unsent: int = 0
    busy: bool = False
    last_used: float = 0.0
    state: _State = _State.SERVED
    evicted: bool = False

    def add_unread(self, count: int) -> None:
        """Count `count` descriptors that are about to be sent."""
        self.unread += count
        self.user.unread += count

    def recount(self) -> bool:
        """Leave only what is not sent in the count if the peer has read everything by now, and return whether it is 0."""
        if self.unread and unread_bytes(self.sock) == 0:
            self.add_unread(self.unsent - self.unread)
        return self.unread == 0

    def is_full(self) -> bool:
        """Return whether so many descriptors are unread that the next call has to wait."""
        return self.unread >= SCM_MAX_FD and not self.recount()


class UserRegistry:
    """All connections, by user.

    `last_left` is when the last connection ended, at first when the broker started (time.monotonic()).
    """

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
        """The number of connections, including those that have ended but are not closed yet."""
        self._sweep()
        return self._count

    def admit(self, number: int, sock: socket.socket) -> ConnectionCharge:
        """Charge a new connection (borrows `sock`) to the user `number`.

        When the broker has no room left, the connection of the user with the most connections that has been idle longest is
        ended, unless the new user would then have as many connections as that user.  Raises QuotaExceeded.
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
                other.recount()
        if user.unread + count > most:
            raise QuotaExceeded("unread-descriptors-per-user")

    def give_back(self, charge: ConnectionCharge) -> None:
        """End the charge of a connection that is over.  Takes its socket.

        As long as the peer has something unread, the socket stays open but shut down, and the connection still counts.
        """
        if charge.recount():
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
        """Close the lingering connections."""
        for charge in list(self._lingering):
            self._hang_up(charge)

    def served(self) -> list[ConnectionCharge]:
        """Return the connections that are still being served."""
        return [charge for user in self._users.values() for charge in user.charges if charge.state is _State.SERVED]

    def _make_room(self, newcomer: User) -> bool:
        """End one connection of the user (never root) with the most connections.

        Return False when that would not be fair to that user, or when there is no connection that could be ended.
        """
        others = (user for user in self._users.values() if user.number != ROOT)
        most = max(others, key=User.standing, default=None)
        if most is None or (newcomer.number != ROOT and most.standing() <= newcomer.standing() + 1):
            return False
        served = (charge for charge in most.charges if charge.state is _State.SERVED and not charge.evicted)
        idlest = min(served, key=lambda charge: (charge.busy, charge.last_used), default=None)
        if idlest is None:
            return False
        idlest.evicted = True
        most.evicted += 1
        self._evicted += 1
        idlest.scope.cancel()
        return True

    def _sweep(self) -> None:
        self.closer.start_waiting()
        for charge in [charge for charge in self._lingering if charge.recount()]:
            self._hang_up(charge)
        for charge in [charge for charge, closing in self._closing.items() if closing.done]:
            del self._closing[charge]
            self._forget(charge)

    def _hang_up(self, charge: ConnectionCharge) -> None:
        self._lingering.discard(charge)
        closing = self.closer.hang_up(charge.sock, charge.user.number)
        charge.add_unread(-charge.unread)
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
