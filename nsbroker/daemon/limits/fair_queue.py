"""Fair queueing: of the users who wait for the event loop, the one who has used the least of its time comes first.

Without it, a user with 256 busy connections would be served 256 times before another user is served once.  With a simple round
robin, a user with a single call would wait until every busy user has had a turn.  This is start-time fair queueing (Goyal, Vin
and Cheng, 1996): each user's virtual time grows by the seconds that serving the user takes.  When a user comes back after
a pause, the virtual time is set to the present, so that nobody can save up time.
"""

import heapq
import time

import trio

# When serving has taken this many seconds in one pass of the event loop, tasks that come later wait for the next pass.
_PASS = 0.001
# The number of users who are woken in one pass.
_WOKEN = 2
# When the virtual time of this many users is remembered, those whose time lies in the past are forgotten.
_REMEMBERED = 1024


class FairQueue(trio.abc.Instrument):
    """Makes tasks wait for their user's turn.

    `run` must be running as long as any task may wait, and the queue must be registered as an instrument of the event loop
    (`trio.lowlevel.add_instrument`).
    """

    def __init__(self) -> None:
        self._used: dict[int, float] = {}
        self._now = 0.0
        self._spent = 0.0
        # A heap with each waiting user once, ordered by virtual time and then by who came first.
        self._order: list[tuple[float, int, int]] = []
        self._waiting: dict[int, trio.lowlevel.ParkingLot] = {}
        self._count = 0
        self._has_waiting = trio.Event()

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002  # the name is trio's
        """Start a new pass.  Trio calls this."""
        self._spent = 0.0

    def take_at_once(self, user: int) -> bool:
        """Take the turn of this user if nobody comes before.  Return whether it was taken."""
        used = max(self._used.get(user, 0.0), self._now)
        if user not in self._waiting and (used < self._order[0][0] if self._order else self._spent < _PASS):
            self._now = used
            return True
        return False

    async def take(self, user: int) -> None:
        """Wait until it is this user's turn; several tasks of one user come in the order of their calls.

        If nobody comes before this task, it returns at once and awaits nothing.
        """
        if self.take_at_once(user):
            return
        used = max(self._used.get(user, 0.0), self._now)
        lot = self._waiting.get(user)
        if lot is None:
            lot = self._waiting[user] = trio.lowlevel.ParkingLot()
            self._enqueue(user, used)
            self._has_waiting.set()
        await lot.park()

    def spend(self, user: int, seconds: float) -> None:
        """Count the seconds of the event loop's time that serving this user took."""
        self._spent += seconds
        if user not in self._used and len(self._used) >= _REMEMBERED:
            self._used = {other: used for other, used in self._used.items() if used > self._now}
        self._used[user] = max(self._used.get(user, 0.0), self._now) + seconds

    async def run(self) -> None:
        """In each pass of the event loop, wake the first task of each of the few users who have used the least time."""
        while True:
            await self._has_waiting.wait()
            while self._order:
                for user in self._pop_first():
                    lot = self._waiting[user]
                    lot.unpark()
                    if lot:
                        self._enqueue(user, self._used.get(user, 0.0))
                    else:
                        del self._waiting[user]
                # Trio runs the woken tasks in its next pass, before or after this task.  In the pass after that one, their time
                # has been counted, so wait for two passes.
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
            self._has_waiting = trio.Event()

    def _pop_first(self) -> list[int]:
        first = [heapq.heappop(self._order) for _ in range(min(_WOKEN, len(self._order)))]
        self._now = max(self._now, first[0][0])
        return [user for _, _, user in first]

    def _enqueue(self, user: int, used: float) -> None:
        self._count += 1
        heapq.heappush(self._order, (max(used, self._now), self._count, user))


class Turn:
    """One connection's turns, and the time that they take.

    Time is counted from `take` or `resume` until `pause`.  Call `pause` before everything that may have to wait.  To pause
    twice, and to resume what is not paused, changes nothing.
    """

    __slots__ = ("_calls", "_is_counting", "_queue", "_since", "_spent", "_user")

    # A turn is over after this many calls, or this many seconds.
    _CALLS = 8
    _SECONDS = 0.001

    def __init__(self, queue: FairQueue, user: int) -> None:
        self._queue = queue
        self._user = user
        self._calls = 0
        self._spent = 0.0
        self._since = 0.0
        self._is_counting = False

    def take_at_once(self) -> bool:
        """Begin the next turn if nobody comes before this task.  Return False, and begin nothing, if somebody does."""
        if not self._queue.take_at_once(self._user):
            return False
        self._begin()
        return True

    async def take(self) -> None:
        """Wait for the next turn, and begin it."""
        await self._queue.take(self._user)
        self._begin()

    def _begin(self) -> None:
        self._calls = self._CALLS
        self._spent = 0.0
        self.resume()

    def pause(self) -> None:
        """Count the time until now, and stop counting."""
        if self._is_counting:
            self._is_counting = False
            seconds = time.monotonic() - self._since
            self._spent += seconds
            self._queue.spend(self._user, seconds)

    def resume(self) -> None:
        """Start counting time again, after `pause`."""
        if not self._is_counting:
            self._is_counting = True
            self._since = time.monotonic()

    def count_call(self) -> bool:
        """Count one more call, and return whether the turn is over, so that others come before this call."""
        self._calls -= 1
        return self._calls < 0 or self._spent + time.monotonic() - self._since > self._SECONDS

    async def start_next(self) -> None:
        """Let other users go first, then begin the next turn."""
        self.pause()
        await trio.lowlevel.checkpoint()
        await self.take()
