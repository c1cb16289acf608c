"""The limit on the network interfaces that are added for each user.

Interfaces end with their networks, or when somebody who may do so deletes them, of which the broker learns nothing.  So it counts
how many it added within an hour.
"""

import time
from collections import deque

from nsbroker.daemon.limits.users import ROOT
from nsbroker.errors import QuotaExceeded

_HOUR = 3600.0
_SWEEP_AT = 1024


class AddedInterfaces:
    """Counts the interfaces that were added for each user.  `most` is the limit of one user in an hour; root has no limit."""

    def __init__(self, most: int) -> None:
        self.most = most
        # The times (time.monotonic()) at which interfaces were added, the oldest first.
        self._by_user: dict[int, deque[float]] = {}

    def charge(self, user: int) -> None:
        """Count one more interface of the user.  Raises QuotaExceeded, and counts nothing, beyond the limit."""
        if user == ROOT:
            return
        if len(self._by_user) >= _SWEEP_AT and user not in self._by_user:
            oldest = time.monotonic() - _HOUR
            self._by_user = {other: times for other, times in self._by_user.items() if times and times[-1] > oldest}
        times = self._by_user.setdefault(user, deque())
        while times and times[0] <= time.monotonic() - _HOUR:
            times.popleft()
        if len(times) >= self.most:
            raise QuotaExceeded("interfaces-per-user")
        times.append(time.monotonic())
