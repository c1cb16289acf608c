"""Fair queueing: of those who wait for the event loop, whoever has used least of its processor time comes first.

Without it, a user with 256 busy connections is served 256 times before another user is served once; and with mere turns,
one who asks a single thing waits until each of the busy ones has had a turn.  This is start-time fair queueing (Goyal, Vin
and Cheng, 1996): each user's virtual time grows by the processor time that serving the user takes, and that of whoever was
away is set to the present, so that nobody saves up.
"""

import heapq
import time

import trio

# Seconds in one pass of the event loop after which those who come wait for the next one, and users who are woken for a pass.
_PASS = 0.001
_WOKEN = 2
# Users whose virtual time is remembered although it may be past.
_REMEMBERED = 1024


class FairQueue(trio.abc.Instrument):
    """Makes tasks wait for their user's turn.  `run` has to run for as long as anyone may wait, and the queue has to be
    among the instruments of the event loop (`trio.lowlevel.add_instrument`).
    """

    def __init__(self) -> None:
        self._used: dict[int, float] = {}
        self._now = 0.0
        self._spent = 0.0
        # Each user who waits, once, by virtual time and then by who came first.
        self._order: list[tuple[float, int, int]] = []
        self._waiting: dict[int, trio.lowlevel.ParkingLot] = {}
        self._count = 0
        self._somebody = trio.Event()

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002  # the name is trio's
        """Called by trio: another pass begins."""
        self._spent = 0.0

    async def take(self, user: int) -> None:
        """Wait until it is this task's turn among those of the same user, which come in the order of their asking.  Without
        anyone before it, it is so at once, and nothing is awaited.
        """
        used = max(self._used.get(user, 0.0), self._now)
        if user not in self._waiting and (used < self._order[0][0] if self._order else self._spent < _PASS):
            self._now = used
            return
        lot = self._waiting.get(user)
        if lot is None:
            lot = self._waiting[user] = trio.lowlevel.ParkingLot()
            self._enqueue(user, used)
            self._somebody.set()
        await lot.park()

    def spend(self, user: int, seconds: float) -> None:
        """Count the time of the event loop that serving this user took."""
        self._spent += seconds
        if user not in self._used and len(self._used) >= _REMEMBERED:
            self._used = {other: used for other, used in self._used.items() if used > self._now}
        self._used[user] = max(self._used.get(user, 0.0), self._now) + seconds

    async def run(self) -> None:
        """Wake the first task of each of the few users who have used least, once for each pass of the event loop."""
        while True:
            await self._somebody.wait()
            while self._order:
                for user in self._first():
                    lot = self._waiting[user]
                    lot.unpark()
                    if lot:
                        self._enqueue(user, self._used.get(user, 0.0))
                    else:
                        del self._waiting[user]
                # Trio runs the woken tasks in its next pass, before or after this one: in the pass after that their time has
                # been counted.
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
            self._somebody = trio.Event()

    def _first(self) -> list[int]:
        first = [heapq.heappop(self._order) for _ in range(min(_WOKEN, len(self._order)))]
        self._now = max(self._now, first[0][0])
        return [user for _, _, user in first]

    def _enqueue(self, user: int, used: float) -> None:
        self._count += 1
        heapq.heappush(self._order, (max(used, self._now), self._count, user))


class Turn:
    """One connection's turns, and the time that they take: from `take` or `resume` to `pause`, which goes before everything
    that may have to wait.
    """

    __slots__ = ("_calls", "_queue", "_since", "_spent", "_user")

    # After so many calls, or so many seconds, others get their turn.
    _CALLS = 8
    _SECONDS = 0.0005

    def __init__(self, queue: FairQueue, user: int) -> None:
        self._queue = queue
        self._user = user
        self._calls = 0
        self._spent = 0.0
        self._since = 0.0

    async def take(self) -> None:
        """Wait for the next turn, and begin it."""
        await self._queue.take(self._user)
        self._calls = self._CALLS
        self._spent = 0.0
        self._since = time.thread_time()

    def pause(self) -> None:
        """Count the time until now."""
        seconds = time.thread_time() - self._since
        self._spent += seconds
        self._queue.spend(self._user, seconds)

    def resume(self) -> None:
        """Go on with the turn that was paused."""
        self._since = time.thread_time()

    def is_over(self) -> bool:
        """For asking once before each call of a running turn: whether it was long enough."""
        self._calls -= 1
        return self._calls < 0 or self._spent + time.thread_time() - self._since > self._SECONDS

    async def another(self) -> None:
        """Let others go first."""
        self.pause()
        await trio.lowlevel.checkpoint()
        await self.take()
