"""A call that is under way: what is left of it to send, and which of its replies have arrived."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from nsbroker.client.requests import Request
from nsbroker.errors import NsbrokerError
from nsbroker.varlink.connection import IncomingReply

T = TypeVar("T")


class PendingCall(Generic[T]):
    """A call that is under way, from when it is begun until it is settled.

    It owns the fds of the replies that have arrived, until an object takes them or `close` is called.  `request.fds` are
    borrowed until the first byte of the call was sent.

    With `streams`, it is settled as often as there are replies that nobody has taken; otherwise once, when its last reply is
    here.  `timeout` (in seconds) limits each step, in addition to the timeout of the client: if it is over first, only this call
    ends, and not the connection.  Only the blocking client heeds it.
    """

    __slots__ = (
        "abandoned", "answered", "begun", "complete", "error", "fds", "replies", "request", "rest", "restriction", "size",
        "streams", "timeout", "unread", "wake",
    )  # fmt: skip

    def __init__(self, request: Request[T], *, streams: bool = False, timeout: float | None = None) -> None:
        self.request = request
        self.streams = streams
        self.timeout = timeout
        self.rest = memoryview(b"")
        """The bytes that are not sent yet."""
        self.fds: Sequence[int] = request.fds
        """The fds that are not sent yet (borrowed)."""
        self.answered = False
        """Whether it has had a reply."""
        self.begun = False
        """Whether its first byte was sent, so that a reply will come."""
        self.unread = False
        """Whether the broker certainly did not read it."""
        self.replies: list[IncomingReply] = []
        self.size = 0
        """The approximate memory of `replies`, in bytes.  It grows also when the call is abandoned: the calls behind it wait."""
        self.complete = False
        """Whether the last reply has arrived."""
        self.error: NsbrokerError | None = None
        """Why it failed: no further reply will come."""
        self.abandoned = False
        """Whether nobody wants the replies any longer."""
        self.restriction: Request[None] | None = None
        """The restriction that it makes for the first time.  If the broker refuses it, nothing is restricted."""
        self.wake: Callable[[], object] | None = None
        """Wakes the task that waits until it is settled; None while no task waits, and when it was woken."""

    @property
    def settled(self) -> bool:
        """Whether there is no need to wait: the replies are here, or it failed."""
        return self.complete or self.error is not None or (self.streams and bool(self.replies))

    @property
    def is_idle_stream(self) -> bool:
        """Whether it is a stream with a reply already, so that the next one may take any time."""
        return self.streams and self.answered

    def wake_up(self) -> None:
        """Wake the task that waits, if there is one."""
        wake, self.wake = self.wake, None
        if wake is not None:
            wake()

    def fail(self, error: NsbrokerError) -> None:
        """Settle it with an error, unless all its replies are here."""
        if not self.complete:
            self.error = self.error or error
        self.wake_up()

    def add(self, reply: IncomingReply, cost: int) -> None:
        """Take a reply, which costs that many bytes of memory.  An abandoned call closes it at once."""
        self.answered = True
        self.size += cost
        if not self.abandoned:
            self.replies.append(reply)
        # `abandon` can come at any moment, also from the garbage collector.  Whichever of the two is later closes the reply.
        if self.abandoned:
            reply.close()

    def take_reply(self) -> IncomingReply:
        """Return the first reply (now the caller's) of a call with `streams`."""
        self.size = 0
        return self.replies.pop(0)

    def abandon(self) -> None:
        """Give up what is still to come, and close the fds that nobody has taken.  Doing this twice does nothing."""
        self.abandoned = True
        self.close()

    def close(self) -> None:
        """Close the fds that nobody has taken."""
        for reply in self.replies:
            reply.close()
