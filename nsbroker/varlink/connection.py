"""The state of one connection, for a server and for a client: which message may come when.

The rules:

1. Replies come in the order of their calls.  A client may send a call before the previous one was answered.
2. A call with `oneway` gets no reply, not even an error.
3. A call with `more` gets any number of replies with `continues`, then one without.  An error is always the last reply.
4. Any other call gets one reply.
5. A message that breaks the protocol ends the connection (ProtocolError), because nothing after it can be trusted.

This module does no I/O: the caller passes in the bytes and fds that it received, and sends the bytes that are returned.
Received fds belong to the `IncomingCall` or `IncomingReply` that they came with.  Closing the connection closes the fds of
messages that were not returned yet.
"""

import enum
from collections import deque

from msgspec import Raw

from nsbroker.errors import InvalidParameter, ProtocolError
from nsbroker.linux.descriptors import close_and_clear
from nsbroker.varlink import message
from nsbroker.varlink.framing import END, Frame, Inbox


class _Fds:
    """The fds of one message, which it owns until they are taken."""

    __slots__ = ("fds",)

    def __init__(self, fds: list[int]) -> None:
        self.fds = fds

    def take_fds(self, indices: dict[str, int] | None = None) -> list[int]:
        """Return the fds (now the caller's) at `indices`, in their order.

        The keys of `indices` are the names of the parameters that contain the indices.  Raises InvalidParameter, and closes
        all fds of the message, unless the indices refer to every fd exactly once.
        """
        if not indices and not self.fds:
            return []
        self.arrange_fds(indices or {})
        fds, self.fds = self.fds, []
        return fds

    def arrange_fds(self, indices: dict[str, int]) -> None:
        """Put `fds` into the order of `indices`.  The message still owns them.  Raises as `take_fds` does."""
        fds = self.fds
        for name, index in indices.items():
            # Python would accept −1 as an index, and True as 1.
            if type(index) is not int or not 0 <= index < len(fds):
                close_and_clear(fds)
                raise InvalidParameter(name)
        if len(set(indices.values())) != len(fds) or len(indices) != len(fds):
            close_and_clear(fds)
            raise InvalidParameter(next(iter(indices), "fileDescriptors"))
        # The list changes in one step, so it never lacks an fd or contains one twice, even when a signal handler raises.
        fds[:] = [fds[index] for index in indices.values()]

    def close(self) -> None:
        """Close the fds that were not taken."""
        close_and_clear(self.fds)


class IncomingCall(_Fds):
    """A received call and its fds."""

    __slots__ = ("method", "more", "oneway", "parameters", "upgrade")

    def __init__(self, call: message.Call, fds: list[int]) -> None:  # the base's is not called: calls are many
        self.fds = fds
        self.method = call.method
        self.parameters = call.parameters
        self.oneway = call.oneway
        self.more = call.more
        self.upgrade = call.upgrade


class IncomingReply(_Fds):
    """A received reply and its fds.  `last` means that no other reply to the same call follows."""

    __slots__ = ("error", "last", "parameters")

    def __init__(self, reply: message.Reply, fds: list[int]) -> None:
        super().__init__(fds)
        self.error = reply.error
        self.parameters: Raw = reply.parameters
        self.last = not reply.continues


class _Expects(enum.Enum):
    """The replies that a call still waits for."""

    ONE = "one reply"
    MANY = "replies until one without `continues`"


class _Connection:
    """The part that both sides of a connection share: receiving data."""

    __slots__ = ("_inbox",)

    def __init__(self) -> None:
        self._inbox = Inbox()

    @property
    def started(self) -> bool:
        """Whether a message has started to arrive and is not complete."""
        return self._inbox.started

    def receive(self, data: bytes, fds: list[int]) -> None:
        """Process a piece of received data and its `fds` (taken), as `ancillary.receive_piece` returns them."""
        self._inbox.feed(data, fds)

    def close(self) -> None:
        """Close the fds of messages that were not returned yet."""
        self._inbox.close()


class ServerConnection(_Connection):
    """The server's side of a connection.  Calls must be answered in the order in which `next_call` returned them."""

    __slots__ = ("_unanswered",)

    def __init__(self) -> None:
        super().__init__()
        self._unanswered: list[IncomingCall] = []

    def next_call(self) -> IncomingCall | None:
        """Return the next complete call, or None when there is none.

        Raises ProtocolError when the client broke the protocol, after the calls before the fault were returned.  The caller
        must then close the connection.
        """
        frame = self._inbox.next_frame()
        if frame is None:
            return None
        try:
            call = IncomingCall(message.decode_call(frame.data), frame.fds)
        except ProtocolError:
            close_and_clear(frame.fds)
            raise
        if not call.oneway:
            self._unanswered.append(call)
        return call

    def reply(self, call: IncomingCall, parameters: object, continues: bool = False, error: str | None = None) -> bytes | None:
        """Encode a reply to `call` and return the bytes to send; None for a oneway call.

        Raises RuntimeError when this reply is not allowed now.
        """
        if call.oneway:
            return None
        if not self._unanswered or self._unanswered[0] is not call:
            raise RuntimeError(f"{call.method} is answered twice, or out of turn (before an earlier call)")
        if continues and (not call.more or error is not None):
            raise RuntimeError(f"{call.method}: `continues` goes only with `more` and without an error")
        if not continues:
            del self._unanswered[0]
        return message.encode_reply(parameters, continues=continues, error=error)

    def close(self) -> None:
        """Close the fds of messages that were not returned yet, and of calls that were not answered."""
        super().close()
        while self._unanswered:
            self._unanswered.pop().close()


class ClientConnection(_Connection):
    """The client's side of a connection.  `message.encode_call` makes the calls that it sends."""

    __slots__ = ("_expected",)

    def __init__(self) -> None:
        super().__init__()
        self._expected: deque[_Expects] = deque()

    def expect(self, *, more: bool = False) -> None:
        """Expect the replies to a call that was sent after all others: one, or with `more` any number."""
        self._expected.append(_Expects.MANY if more else _Expects.ONE)

    def receive(self, data: bytes, fds: list[int]) -> None:
        """Process a piece of received data and its `fds` (taken), as `ancillary.receive_owned` returns them.

        The kernel puts bytes that were sent earlier without fds in front of a message with fds, and ends the piece with what was
        sent together with the fds.  A message with fds is sent alone, so they belong to the last message that begins in the piece.
        """
        start = data.rfind(END, 0, -1) + 1 if fds else 0
        if start:
            super().receive(data[:start], [])
        super().receive(data[start:], fds)

    @property
    def ready(self) -> bool:
        """Whether `next_reply` will return a reply or raise an error."""
        return self._inbox.ready

    def next_reply(self) -> IncomingReply | None:
        """Return the next complete reply, or None when there is none.

        Raises ProtocolError when the server broke the protocol.  The caller must then close the connection.
        """
        frame = self._inbox.next_frame()
        if frame is None:
            return None
        try:
            return self._decode_reply(frame)
        except ProtocolError:
            close_and_clear(frame.fds)
            raise

    def _decode_reply(self, frame: Frame) -> IncomingReply:
        reply = IncomingReply(message.decode_reply(frame.data), frame.fds)
        if not self._expected:
            raise ProtocolError("a reply came, but no call waits for one")
        if not reply.last and self._expected[0] is not _Expects.MANY:
            raise ProtocolError("several replies came to a call that asked for one")
        if reply.last:
            self._expected.popleft()
        return reply
