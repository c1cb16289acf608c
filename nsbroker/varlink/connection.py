"""What may come when, on one connection, for the serving and the calling side.

The rules:

1. Replies come in the order of their calls; a call may be sent before the one before it is answered.
2. A call with `oneway` gets no reply, not even an error.
3. A call with `more` gets any number of replies with `continues`, then one without; an error is always the last.
4. Any other call gets one reply.
5. A message that breaks the protocol ends the connection (ProtocolError): nothing after it can be trusted.

No I/O happens here: bytes and fds come in, bytes go out.  Fds that arrive belong to the `IncomingCall` or
`IncomingReply` they came with; closing the connection closes those of an incomplete message.
"""

import enum
from collections import deque

from msgspec import Raw

from nsbroker.errors import InvalidParameter, ProtocolError
from nsbroker.linux.ancillary import close_and_clear
from nsbroker.varlink import message
from nsbroker.varlink.framing import Frame, Inbox


class _Fds:
    """The fds of one message: each is taken once, what is left is closed."""

    __slots__ = ("fds",)

    def __init__(self, fds: list[int]) -> None:
        self.fds = fds

    def take_fds(self, indices: dict[str, int] | None = None) -> list[int]:
        """The fds (now the caller's) at `indices`, given by the names of the parameters that hold them.

        They must be all the message has, each once; otherwise InvalidParameter, and all are closed.
        """
        if not indices and not self.fds:
            return []
        self.arrange_fds(indices or {})
        fds, self.fds = self.fds, []
        return fds

    def arrange_fds(self, indices: dict[str, int]) -> None:
        """Put `fds` into the order of `indices`.  They stay the message's.  Raises as `take_fds`."""
        fds = self.fds
        for name, index in indices.items():
            # Python would take −1, and True for 1.
            if type(index) is not int or not 0 <= index < len(fds):
                close_and_clear(fds)
                raise InvalidParameter(name)
        if len(set(indices.values())) != len(fds) or len(indices) != len(fds):
            close_and_clear(fds)
            raise InvalidParameter(next(iter(indices), "fileDescriptors"))
        # One step: there is no moment at which a number is missing in the list, or in it twice.
        fds[:] = [fds[index] for index in indices.values()]

    def close(self) -> None:
        """Close the fds that nobody took."""
        close_and_clear(self.fds)


class IncomingCall(_Fds):
    """A call to answer, and its fds."""

    __slots__ = ("method", "more", "oneway", "parameters", "upgrade")

    def __init__(self, call: message.Call, fds: list[int]) -> None:
        super().__init__(fds)
        self.method = call.method
        self.parameters = call.parameters
        self.oneway = call.oneway
        self.more = call.more
        self.upgrade = call.upgrade


class IncomingReply(_Fds):
    """A reply, and its fds.  `last`: no other reply to the same call follows."""

    __slots__ = ("error", "last", "parameters")

    def __init__(self, reply: message.Reply, fds: list[int]) -> None:
        super().__init__(fds)
        self.error = reply.error
        self.parameters: Raw = reply.parameters
        self.last = not reply.continues


class _Expects(enum.Enum):
    """What a call still waits for."""

    ONE = "one reply"
    MANY = "replies until one without `continues`"


class ServerConnection:
    """The serving side.  Calls are answered in the order in which `receive` gave them."""

    __slots__ = ("_inbox", "_unanswered")

    def __init__(self) -> None:
        self._inbox = Inbox()
        self._unanswered: deque[IncomingCall] = deque()

    @property
    def started(self) -> bool:
        """Whether a call has begun to arrive and is not complete."""
        return self._inbox.started

    def receive(self, data: bytes, fds: list[int]) -> None:
        """Take a piece (and `fds`) as `receive_piece` gives it."""
        self._inbox.feed(data, fds)

    def next_call(self) -> IncomingCall | None:
        """The next whole call.  Raises ProtocolError when all that came before the fault was given out: hang up."""
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

    def reply(self, call: IncomingCall, parameters: object, *, continues: bool = False, error: str | None = None) -> bytes | None:
        """The bytes that answer `call`, None for a oneway call."""
        if call.oneway:
            return None
        if not self._unanswered or self._unanswered[0] is not call:
            raise RuntimeError(f"{call.method} is answered out of turn, or twice")
        if continues and (not call.more or error is not None):
            raise RuntimeError(f"{call.method}: `continues` goes only with `more` and without an error")
        if not continues:
            self._unanswered.popleft()
        return message.encode_reply(parameters, continues=continues, error=error)

    def close(self) -> None:
        """Close the fds of what came and was not answered."""
        self._inbox.close()
        while self._unanswered:
            self._unanswered.popleft().close()


class ClientConnection:
    """The calling side."""

    __slots__ = ("_expected", "_inbox")

    def __init__(self) -> None:
        self._inbox = Inbox()
        self._expected: deque[_Expects] = deque()

    def call(self, method: str, parameters: object, *, oneway: bool = False, more: bool = False) -> bytes:
        """The bytes of a call, to be sent with its fds in one sendmsg.  Raises ProtocolError when it is too long."""
        data = message.encode_call(method, parameters, oneway=oneway, more=more)
        if not oneway:
            self._expected.append(_Expects.MANY if more else _Expects.ONE)
        return data

    @property
    def started(self) -> bool:
        """Whether a reply has begun to arrive and is not complete."""
        return self._inbox.started

    @property
    def ready(self) -> bool:
        """Whether `next_reply` has something to give out or to raise."""
        return self._inbox.ready

    def receive(self, data: bytes, fds: list[int]) -> None:
        """Take a piece (and `fds`) as `receive_piece` gives it."""
        self._inbox.feed(data, fds)

    def next_reply(self) -> IncomingReply | None:
        """The next whole reply.  Raises ProtocolError: hang up."""
        frame = self._inbox.next_frame()
        if frame is None:
            return None
        try:
            return self._reply(frame)
        except ProtocolError:
            close_and_clear(frame.fds)
            raise

    def _reply(self, frame: Frame) -> IncomingReply:
        reply = IncomingReply(message.decode_reply(frame.data), frame.fds)
        if not self._expected:
            raise ProtocolError("a reply to no call")
        if not reply.last and self._expected[0] is not _Expects.MANY:
            raise ProtocolError("several replies to a call that asked for one")
        if reply.last:
            self._expected.popleft()
        return reply

    def close(self) -> None:
        """Close the fds of what came and was not given out."""
        self._inbox.close()
