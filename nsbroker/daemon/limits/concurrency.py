"""UserCapacityLimiter: what one user asks, however often, is no other user's wait."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class UserCapacityLimiter:
    """Lets each user have so many things under way at once; what is more waits for its turn."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._users: dict[int, trio.CapacityLimiter] = {}

    @asynccontextmanager
    async def of(self, uid: int) -> AsyncIterator[None]:
        """One turn of the user `uid`."""
        turns = self._users.setdefault(uid, trio.CapacityLimiter(self._at_once))
        try:
            async with turns:
                yield
        finally:
            if not turns.statistics().borrowed_tokens and not turns.statistics().tasks_waiting:
                self._users.pop(uid, None)
