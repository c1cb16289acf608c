"""Round robin: in each pass of the event loop, one connection of each user is served.

Without it, a user with 256 busy connections is served 256 times before another user is served once.
"""

import trio


class RoundRobin:
    """Makes tasks wait for their user's turn.  `run` has to run for as long as anyone may wait."""

    def __init__(self) -> None:
        self._waiting: dict[int, trio.lowlevel.ParkingLot] = {}
        self._somebody = trio.Event()

    async def turn(self, user: int) -> None:
        """Wait until it is this task's turn among those of the same user, which come in the order of their asking."""
        lot = self._waiting.get(user)
        if lot is None:
            lot = self._waiting[user] = trio.lowlevel.ParkingLot()
            self._somebody.set()
        await lot.park()

    async def run(self) -> None:
        """Wake the first of each user's tasks, once for each pass of the event loop."""
        while True:
            await self._somebody.wait()
            while self._waiting:
                for user, lot in list(self._waiting.items()):
                    lot.unpark()
                    if not lot:
                        del self._waiting[user]
                # The woken tasks run before this one is run again.
                await trio.lowlevel.checkpoint()
            self._somebody = trio.Event()
