"""The limit on the namespaces that were created for each user.  Each uses kernel memory (a network about 200 kB) while it exists.

The peers own the handles, so only they decide how long the namespaces exist.  Since Linux 6.18 the kernel can say whether a
namespace still exists, without keeping it alive.  On older kernels each namespace counts for an hour.
"""

import time
from collections.abc import Iterable

from msgspec import Struct

from nsbroker.daemon.limits.users import ROOT
from nsbroker.errors import QuotaExceeded
from nsbroker.linux.file_handle import NamespaceReference
from nsbroker.namespace import Namespace

_HOUR = 3600.0


class _Created(Struct):
    """One namespace that was created at the time `at` (time.monotonic()).

    `reference` is None on kernels that have no such references.
    """

    at: float
    reference: NamespaceReference | None

    def still_counts(self) -> bool:
        if self.reference is not None:
            return self.reference.exists()
        return time.monotonic() < self.at + _HOUR


class CreatedNamespaces:
    """Counts the namespaces that were created for each user.  `most` is the limit of one user; root has no limit."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._by_user: dict[int, list[_Created]] = {}

    def check(self, user: int, count: int) -> None:
        """Check that `count` more namespaces may be created for the user.  Raises QuotaExceeded."""
        mine = [created for created in self._by_user.pop(user, []) if created.still_counts()]
        if mine:
            self._by_user[user] = mine
        if user != ROOT and len(mine) + count > self.most:
            raise QuotaExceeded("created-per-user")

    def add(self, user: int, made: Iterable[Namespace]) -> None:
        """Count the namespaces `made` (borrowed) for the user."""
        if user != ROOT:
            new = [_Created(time.monotonic(), NamespaceReference.of(ns.fileno())) for ns in made]
            self._by_user.setdefault(user, []).extend(new)
