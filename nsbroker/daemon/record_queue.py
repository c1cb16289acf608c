"""The audit records that wait for the journal, in one queue for each user.

The users take turns, so a user whose records fill a queue does not keep those of another user waiting.
"""

from collections import deque
from typing import NamedTuple

from nsbroker.daemon.peer import Peer
from nsbroker.daemon.record_sink import Record

NOBODY = -2
"""The user of records about the broker itself.  It is no number that `limits.users` gives: see ANONYMOUS there."""


class QueuedRecord(NamedTuple):
    """A record that waits, and the peer whose call waits with it; None when no call does."""

    peer: Peer | None
    record: Record


class RecordQueue:
    """Records that wait.  Those of one user stay in their order."""

    def __init__(self) -> None:
        # The user whose turn it is comes first.
        self._users: dict[int, deque[QueuedRecord]] = {}
        self._calls: dict[Peer, int] = {}
        self.without_call = 0
        """The number of records for which no call waits."""

    def __bool__(self) -> bool:
        return bool(self._users)

    def has(self, peer: Peer) -> bool:
        """Return whether a call of `peer` waits for its records."""
        return peer in self._calls

    def has_user(self, user: int) -> bool:
        """Return whether a record of `user` waits."""
        return user in self._users

    def add(self, user: int, peer: Peer | None, record: Record) -> None:
        """Add a record of `user`.  `peer` as in `QueuedRecord`."""
        self._users.setdefault(user, deque()).append(QueuedRecord(peer, record))
        if peer is None:
            self.without_call += 1
        else:
            self._calls[peer] = self._calls.get(peer, 0) + 1

    def first(self) -> Record:
        """Return the record that comes next.  The queue must not be empty."""
        return next(iter(self._users.values()))[0].record

    def remove_first(self) -> Peer | None:
        """Remove that record, so that the next user comes.  Return the peer whose call need not wait any longer, if any."""
        user = next(iter(self._users))
        waiting = self._users.pop(user)
        peer = waiting.popleft().peer
        if waiting:
            self._users[user] = waiting
        return self._forget(peer)

    def _forget(self, peer: Peer | None) -> Peer | None:
        if peer is None:
            self.without_call -= 1
            return None
        self._calls[peer] -= 1
        if self._calls[peer]:
            return None
        del self._calls[peer]
        return peer

    def records_of(self, peer: Peer) -> list[Record]:
        """Return the records for which a call of `peer` waits, in their order."""
        return [queued.record for queued in self._users.get(peer.user, ()) if queued.peer is peer]

    def drop(self, peer: Peer) -> None:
        """Remove the records for which a call of `peer` waits."""
        if not self._calls.pop(peer, 0):
            return
        left = deque(queued for queued in self._users[peer.user] if queued.peer is not peer)
        if left:
            self._users[peer.user] = left
        else:
            del self._users[peer.user]
