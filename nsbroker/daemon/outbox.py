"""Sending replies, several in a row, and the time that a peer has to read them."""

import contextlib
from collections.abc import Awaitable
from types import TracebackType

import trio

from nsbroker.daemon.limits.connections import ConnectionCharge, UserRegistry
from nsbroker.daemon.limits.deadline import Deadline
from nsbroker.daemon.limits.fair_queue import Turn
from nsbroker.daemon.methods.call import Reply
from nsbroker.linux import ancillary
from nsbroker.varlink.connection import IncomingCall, ServerConnection

GRACE = 0.5
"""When the broker stops, peers have this many seconds to read what they are sent."""

_SENT = Reply()
"""A reply that has no fds left to send."""


class ReadingTime:
    """The time that peers have to read what they are sent."""

    def __init__(self, users: UserRegistry) -> None:
        self._users = users
        self._is_stopping = False
        # One scope for each peer that has to read before its connection goes on.
        self._scopes: set[trio.CancelScope] = set()

    def limit(self) -> Deadline:
        """Let the body wait for a peer until the reply deadline, or for a moment when the broker stops.  Raises TooSlowError."""
        return _ReadingDeadline(GRACE if self._is_stopping else self._users.limits.reply_deadline, self._scopes)

    def stop(self) -> None:
        """Note that the broker stops."""
        self._is_stopping = True
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, trio.current_time() + GRACE)


class _ReadingDeadline(Deadline):
    """A deadline whose scope is in `scopes` as long as the body runs."""

    def __init__(self, seconds: float, scopes: set[trio.CancelScope]) -> None:
        super().__init__(trio.move_on_after(seconds))
        self._scopes = scopes

    def __enter__(self) -> trio.CancelScope:
        self._scopes.add(self._scope)
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._scopes.discard(self._scope)
        return super().__exit__(kind, error, traceback)


class Outbox:
    """The replies of one connection that are ready to be sent, in their order.  Owns their fds; close it.

    Replies to calls that came together are sent together.  Otherwise the peer would be woken for each of them, which takes longer
    than sending it.
    """

    __slots__ = ("_charge", "_connection", "_ready", "_sent", "_time", "_users")

    def __init__(self, charge: ConnectionCharge, connection: ServerConnection, users: UserRegistry, time: ReadingTime) -> None:
        self._charge = charge
        self._connection = connection
        self._users = users
        self._time = time
        # The bytes of each reply that are not sent yet, and the reply, for its fds.
        self._ready: list[tuple[bytes | memoryview, Reply]] = []
        self._sent = 0

    def add(self, call: IncomingCall, reply: Reply) -> None:
        """Add the reply (taken) to a call.  The caller of a call that wants no reply gets none."""
        try:
            data = self._connection.reply(call, reply.parameters, reply.continues, reply.error)
        except BaseException:
            self._release(reply)
            raise
        if data is None:
            self._release(reply)
            return
        self._count(len(reply.fds))
        self._ready.append((data, reply))

    def send(self) -> bool:
        """Send what is ready, as far as the socket has room for it.  Return whether that was all.  Raises OSError."""
        ready, charge = self._ready, self._charge
        while ready:
            data, reply = ready[0]
            try:
                count = ancillary.send(charge.sock, data, reply.fds)
            except BlockingIOError:
                return False
            if reply.fds:
                charge.unsent -= len(reply.fds)
                self._release(reply)
            if count < len(data):
                ready[0] = (memoryview(data)[count:], _SENT)
                return False
            del ready[0]
            self._sent += 1
        return True

    async def send_all(self, turn: Turn) -> None:
        """Send what is ready, and wait for the peer to read.  Raises OSError, and TooSlowError for a peer that does not read."""
        if self.send():
            return
        turn.pause()
        await self._send_rest()
        turn.resume()

    async def add_later(self, call: IncomingCall, pending: Awaitable[Reply]) -> None:
        """Wait for a reply to a call and add it.  Send meanwhile what the socket had no room for.

        An error of sending is raised when something is sent again: whoever has begun a call waits for its end.
        """
        is_sent = True
        with contextlib.suppress(OSError):
            is_sent = self.send()
        if is_sent:
            self.add(call, await pending)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._try_to_send_rest)
            self.add(call, await pending)
            nursery.cancel_scope.cancel()

    async def _try_to_send_rest(self) -> None:
        with contextlib.suppress(OSError, trio.TooSlowError):
            await self._send_rest()

    async def _send_rest(self) -> None:
        while self._ready:
            sent = self._sent
            # Each reply has its own deadline.
            with self._time.limit():
                while self._sent == sent:
                    await trio.lowlevel.wait_writable(self._charge.sock)
                    self.send()

    def close(self) -> None:
        """Close the fds of the replies that were not sent."""
        for _, reply in self._ready:
            self._count(-len(reply.fds))
            self._release(reply)
        self._ready.clear()

    def _count(self, count: int) -> None:
        self._charge.unsent += count
        self._charge.add_unread(count)

    def _release(self, reply: Reply) -> None:
        reply.close(self._users.closer, self._charge.user.number)
