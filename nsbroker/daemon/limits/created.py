"""How many namespaces each user had made: they cost the kernel memory (a network some 200 kB) for as long as they exist.

The handles belong to the peers, who keep them open or not.  From Linux 6.18 on the kernel tells whether a namespace still
exists, without keeping it alive; before, each counts for an hour.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from nsbroker.daemon.limits.users import ROOT
from nsbroker.errors import QuotaExceeded
from nsbroker.linux.file_handle import NamespaceReference
from nsbroker.namespace import Namespace

_HOUR = 3600.0


@dataclass(slots=True)
class _Created:
    """One namespace; `reference` is None where the kernel has none."""

    at: float
    reference: NamespaceReference | None

    def still_counts(self) -> bool:
        if self.reference is not None:
            return self.reference.exists()
        return time.monotonic() < self.at + _HOUR


class CreatedNamespaces:
    """What each user had made.  `most` is the limit of one user; root has none."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._by_user: dict[int, list[_Created]] = {}

    def check(self, user: int, count: int) -> None:
        """Check that the user may have `count` more made.  Raises QuotaExceeded."""
        mine = [one for one in self._by_user.pop(user, []) if one.still_counts()]
        if mine:
            self._by_user[user] = mine
        if user != ROOT and len(mine) + count > self.most:
            raise QuotaExceeded("created-per-user")

    def add(self, user: int, made: Iterable[Namespace]) -> None:
        """Count these (borrowed)."""
        if user != ROOT:
            new = [_Created(time.monotonic(), NamespaceReference.of(space.fileno())) for space in made]
            self._by_user.setdefault(user, []).extend(new)
