"""UserCapacityLimiter: a capacity limit for each user, so that no user has to wait for another user's many calls."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class UserCapacityLimiter:
    """Lets each user do at most `at_once` things at the same time; further ones wait.

    It is a trio.CapacityLimiter for each user, made when it is needed.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._users: dict[int, trio.CapacityLimiter] = {}

    @asynccontextmanager
    async def of(self, user: int) -> AsyncIterator[None]:
        """Wait until `user` may do one more thing, which is the body of the `async with` block."""
        limiter = self._users.get(user)
        if limiter is None:
            limiter = self._users[user] = trio.CapacityLimiter(self._at_once)
        try:
            try:
                # Without a checkpoint: a pass of a busy event loop takes longer than most of what is limited here.
                limiter.acquire_nowait()
            except trio.WouldBlock:
                await limiter.acquire()
            try:
                yield
            finally:
                limiter.release()
        finally:
            # Tasks wait only while others have borrowed all tokens.  When a task that waited is cancelled, there can be another
            # limiter of this user by now.
            if not limiter.borrowed_tokens and self._users.get(user) is limiter:
                del self._users[user]
