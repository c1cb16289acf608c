"""The connection of a client, and the calls that are under way on it.

Nothing here waits: each step does what is possible now, and the client waits and repeats it until its call is settled.
"""

import contextlib
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from itertools import chain
from typing import Any, TypeVar, cast

from nsbroker.client.pending import PendingCall
from nsbroker.client.requests import Request
from nsbroker.errors import ConnectionLost, InvalidTarget, NsbrokerError, ProtocolError, Timeout
from nsbroker.linux import ancillary, descriptors
from nsbroker.varlink import message
from nsbroker.varlink.connection import ClientConnection
from nsbroker.varlink.framing import END, MESSAGE_MAX

T = TypeVar("T")

DEFAULT_TIMEOUT = 10.0
"""The default timeout of a client for each step of a call, in seconds."""
REPLIES_MAX = 64 * 1024 * 1024
"""The limit for the memory of all replies to one call, in bytes."""
# The approximate memory of a reply in addition to its bytes, so that many nearly empty replies reach the limit, too.
_REPLY_COST = 256
# How often to receive without letting other tasks run.
_PIECES_IN_A_ROW = 64


class CallNotRead(ConnectionLost):
    """The broker closed the connection before it read the call, so the call can be made again on another connection."""


class Transport:
    """The connection of a client: its socket, and the calls that are under way on it, in the order in which they were begun.

    Takes `sock`, and makes it non-blocking.  `arrivals` is a poll object for received data.  `before_close` is called before
    the socket is closed.  If a connection has ended, the client replaces it for the next call, until it calls `close`.

    A call waits in `_outgoing` until all of it is sent, and in `_waiting` from its first byte to its last reply.  The replies
    belong to the calls in `_waiting`, the first to the first.  Calls are held back while the fds of all expected replies are
    more than one message can carry, because the broker reads no further while so many fds are unread.

    `restrictions` are the calls that restricted the connection.  The client makes them again on each further connection before
    any other call, and then sets `restricted`.  `since` is when the first of the waiting calls became the first, or when the
    last reply came (time.monotonic()).
    """

    def __init__(self, sock: socket.socket, before_close: Callable[[], object] = lambda: None) -> None:
        self.closed = False
        self.restrictions: list[Request[None]] = []
        self.restricted = True
        self.since = time.monotonic()
        self._before_close = before_close
        self._buffer = memoryview(bytearray(MESSAGE_MAX + len(END)))
        self._outgoing: deque[PendingCall[Any]] = deque()
        self._waiting: deque[PendingCall[Any]] = deque()
        self._use(sock)

    def _use(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)
        self.arrivals = select.poll()
        self.arrivals.register(sock, select.POLLIN)
        self._connection = ClientConnection()
        # The lists of fds that have arrived and whose replies no call has yet, in their order.
        self._arrived: deque[list[int]] = deque()
        self._fds_expected = 0
        self._used = False
        self._distrust = ""

    @property
    def busy(self) -> bool:
        """Whether calls are under way, whether or not somebody waits for them."""
        return bool(self._waiting or self._outgoing)

    @property
    def wants_to_send(self) -> bool:
        """Whether a call waits for room in the socket."""
        return bool(self._outgoing) and self._may_send(self._outgoing[0])

    def is_over(self, request: Request[T]) -> bool:
        """Return whether the connection has ended since the last call.

        Raises ConnectionLost if the client closed it, ProtocolError if the broker sent something without being asked.
        """
        if self.closed:
            raise ConnectionLost(f"{request.what()}: this connection is closed; connect again")
        if self._distrust:
            self.advance()
        if self.sock.fileno() < 0 or not self.restricted:
            return True
        # While calls are under way, whoever receives their replies notices the end.
        if self.busy or not self.arrivals.poll(0):
            return False
        try:
            unexpected = self.sock.recv(1, socket.MSG_PEEK)
        except OSError:
            return True
        # A broker with too many connections sends an error before the first call of a new connection, and closes it.
        if unexpected and self._used:
            self.drop()
            raise ProtocolError(f"{request.what()}: the broker sent a reply before anything was asked")
        return not unexpected

    def replace(self, sock: socket.socket) -> None:
        """Use another connection from now on, after `drop`.  Takes `sock`.  It counts as over until `restricted` is set.

        Raises ConnectionLost if the client was closed meanwhile.
        """
        # This only has an effect if an exception interrupted `fail`.
        self.fail(_interrupted)
        self._use(sock)
        self.restricted = False
        if self.closed:
            self.drop()
            raise ConnectionLost("the connection was closed meanwhile; connect again")

    def start(self, call: PendingCall[Any]) -> None:
        """Begin a call behind all others, and send what is possible now.

        Raises InvalidTarget for text that cannot be sent, ProtocolError if it is too long.
        """
        request = call.request
        try:
            data = message.encode_call(request.method, request.parameters, more=request.more)
        except UnicodeEncodeError as error:
            # The text has a lone surrogate: os.fsdecode() returns these for bytes that are not valid UTF-8.
            raise InvalidTarget(f"{error.object[:80]!r} cannot be sent to the broker: it is not UTF-8 text") from error
        if request.restricts and all(request.parameters != before.parameters for before in self.restrictions):
            # From now on the broker may have carried it out, whether or not the reply arrives.
            call.restriction = cast(Request[None], request)
            self.restrictions.append(call.restriction)
        call.rest = memoryview(data)
        if not self.busy:
            self.since = time.monotonic()
        self._used = True
        self._outgoing.append(call)
        self._do(self._send_more)

    def advance(self, call: PendingCall[Any] | None = None) -> None:
        """Send and receive what is possible now.  Stops receiving when `call` is settled.

        If the connection turns out to be over, all calls fail, each with an error of its own.
        """
        self._do(lambda: self._transfer(call))

    def advance_in_time(self, call: PendingCall[Any] | None, timeout: float | None) -> None:
        """Advance; then end the connection if the next reply is overdue by now."""
        self.advance(call)
        left = self.seconds_left(timeout)
        if timeout is not None and left is not None and left <= 0 and not (call is not None and call.settled):
            self.fail(lambda late: Timeout(late.request.what(), timeout))

    def end_if_overdue(self, timeout: float | None) -> None:
        """End the connection if the next reply is overdue, and has not arrived by now."""
        left = self.seconds_left(timeout)
        if left is not None and left <= 0:
            self.advance_in_time(None, timeout)

    def seconds_left(self, timeout: float | None) -> float | None:
        """Return the seconds until the next reply is due, if a step may take `timeout` seconds; None if it is never due."""
        if timeout is None or not self.busy:
            return None
        # The next event of a watch may come in hours, but not the rest of an event.
        if self._waiting and self._waiting[0].is_idle_stream and not self._connection.started:
            return None
        return self.since + timeout - time.monotonic()

    def _do(self, step: Callable[[], None]) -> None:
        """Do a step.  An exception in the middle of it leaves the connection out of step, so it ends the connection."""
        try:
            step()
        except ProtocolError as error:
            reason = str(error)
            self.fail(lambda call: ProtocolError(f"{call.request.what()}: {reason}"))
        except OSError as error:
            if error.errno is None:
                # A signal handler raised it, not the kernel.
                self.fail(_interrupted)
                raise
            broke = error.strerror
            self.fail(
                _closed_meanwhile
                if self.closed
                else lambda call: ConnectionLost(f"{call.request.what()}: the connection broke: {broke}")
            )
        except BaseException:
            self.fail(_interrupted)
            raise

    def _transfer(self, call: PendingCall[Any] | None) -> None:
        if self._distrust:
            raise ProtocolError(self._distrust)
        self._send_more()
        for _ in range(_PIECES_IN_A_ROW):
            if not self._waiting or (call is not None and call.settled) or not self._receive_piece():
                break
        # The replies may have made room for calls that were held back.
        self._send_more()

    def _may_send(self, call: PendingCall[Any]) -> bool:
        return call.begun or not self._waiting or self._fds_expected + call.request.most_fds <= ancillary.SCM_MAX_FD

    def _send_more(self) -> None:
        while self._outgoing and self._may_send(call := self._outgoing[0]):
            if call.abandoned and not call.begun:
                self._withdraw_restriction(call)
                self._outgoing.popleft()
                continue
            try:
                sent = ancillary.send(self.sock, call.rest, call.fds)
            except BlockingIOError:
                return
            except BrokenPipeError:
                # The broker has closed the connection.  If it has too many connections, it sent an error first, which is read next.
                while self._outgoing:
                    self._outgoing[0].unread = True
                    self._expect(self._outgoing[0])
                    self._outgoing.popleft()
                return
            except OSError as error:
                if call.begun or error.errno is None or self.closed:
                    raise
                # Nothing of it was sent, so the other calls are not concerned.  A pidfd in it may be closed, for example.
                self._outgoing.popleft()
                self._withdraw_restriction(call)
                call.fail(ConnectionLost(f"{call.request.what()}: the call cannot be sent: {error.strerror}"))
                continue
            self._expect(call)
            call.fds = ()
            call.rest = call.rest[sent:]
            if not call.rest:
                self._outgoing.popleft()
                if self._waiting and self._waiting[0] is call:
                    self.since = time.monotonic()

    def _expect(self, call: PendingCall[Any]) -> None:
        if not call.begun:
            call.begun = True
            self._connection.expect(more=call.request.more)
            self._waiting.append(call)
            self._fds_expected += call.request.most_fds

    def _receive_piece(self) -> bool:
        """Receive a piece, and give complete replies to their calls.  Return False if there is nothing to receive now."""
        fds: list[int] = []
        self._arrived.append(fds)
        try:
            count = ancillary.receive_owned(self.sock, self._buffer, fds)
        except BlockingIOError:
            self._arrived.pop()
            return False
        except ConnectionResetError:
            count = 0
        if not fds:
            self._arrived.pop()
        if not count:
            self.fail(self._ended)
            return False
        if self._waiting[0].is_idle_stream and not self._connection.started:
            self.since = time.monotonic()
        self._connection.receive(bytes(self._buffer[:count]), fds)
        self._deliver()
        return True

    def _deliver(self) -> None:
        while (reply := self._connection.next_reply()) is not None:
            call = self._waiting[0]
            has_fds = bool(reply.fds)
            call.add(reply, len(reply.parameters) + _REPLY_COST)
            if has_fds:
                self._arrived.popleft()
                if not call.request.most_fds:
                    reply.close()
                    raise ProtocolError("the broker sent unexpected file descriptors")
            if call.size > REPLIES_MAX:
                raise ProtocolError(f"the broker's replies take more than {REPLIES_MAX} bytes")
            self.since = time.monotonic()
            if reply.last:
                self._finish(call, is_refused=reply.error is not None)
            if call.settled:
                call.wake_up()

    def _finish(self, call: PendingCall[Any], *, is_refused: bool) -> None:
        if len(self._waiting) == 1 and (self._connection.ready or self._connection.started):
            raise ProtocolError("the broker sent more than the reply")
        if is_refused:
            self._withdraw_restriction(call)
        self._fds_expected -= call.request.most_fds
        self._waiting.popleft()
        call.complete = True

    def _withdraw_restriction(self, call: PendingCall[Any]) -> None:
        """Forget the restriction that the call makes, because the broker certainly has not carried it out."""
        if call.restriction is not None:
            self.restrictions.remove(call.restriction)
            call.restriction = None

    def _ended(self, call: PendingCall[Any]) -> ConnectionLost:
        """Return the error of a call that is under way when the connection ends."""
        if self.closed:
            return _closed_meanwhile(call)
        if call.unread or not call.begun:
            self._withdraw_restriction(call)
            return CallNotRead(f"{call.request.what()}: the broker closed the connection before it read the call; try again")
        return ConnectionLost(
            f"{call.request.what()}: the broker closed the connection before it replied (a restart, or an invalid call); try again"
        )

    def newest_parked(self) -> PendingCall[Any] | None:
        """Return the newest call for which a task waits that can be woken, or None."""
        calls = chain(reversed(self._outgoing), reversed(self._waiting))
        return next((call for call in calls if call.wake is not None), None)

    def distrust(self, reason: str) -> None:
        """End the connection soon, because of a reply that cannot be the reply to its call: the others may be in disorder, too."""
        self._distrust = f"the broker's replies are in disorder ({reason})"
        # This wakes whoever waits for the connection, and that task or thread then fails all calls.
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def fail(self, make_error: Callable[[PendingCall[Any]], NsbrokerError]) -> None:
        """End the connection.  All calls that are under way fail, each with the error that is made for it."""
        self.drop()
        for queue in (self._waiting, self._outgoing):
            while queue:
                queue[0].fail(make_error(queue[0]))
                queue.popleft()

    def detach(self) -> int:
        """Give the connection to the caller, as its descriptor, and close the transport.  Raises ConnectionLost if it has ended.

        No call may be under way.  The descriptor stays non-blocking.
        """
        if self.sock.fileno() < 0:
            raise ConnectionLost("detach the connection: it has ended, or is closed; connect again")
        self.closed = True
        return self.sock.detach()

    def close(self) -> None:
        """Close the connection permanently.  Closing twice does nothing.  Any thread may do this at any time.

        Calls that are under way stay so until somebody advances them, or calls `fail_closed`.
        """
        self.closed = True
        self.drop()

    def fail_closed(self) -> None:
        """After `close`: fail the calls that are under way."""
        self.fail(_closed_meanwhile)

    def drop(self) -> None:
        """Close the connection; `replace` may set another one.  Doing this twice does nothing."""
        if self.sock.fileno() >= 0:
            self._before_close()
            # This wakes a thread that waits for the connection, which close(2) alone does not.
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
        self._release()

    def after_fork(self) -> None:
        """Close the copies of this process, without a shutdown: the parent still uses the connection."""
        self._release()
        for call in (*self._waiting, *self._outgoing):
            call.wake = None
        self.fail(_made_before_fork)

    def _release(self) -> None:
        self.sock.close()
        for fds in list(self._arrived):
            descriptors.close_and_clear(fds)


def _closed_meanwhile(call: PendingCall[Any]) -> ConnectionLost:
    return ConnectionLost(f"{call.request.what()}: the connection was closed meanwhile")


def _made_before_fork(call: PendingCall[Any]) -> ConnectionLost:
    return ConnectionLost(f"{call.request.what()}: the call belongs to the process that this one was forked from")


def _interrupted(call: PendingCall[Any]) -> ConnectionLost:
    return ConnectionLost(f"{call.request.what()}: an exception interrupted the receiving of replies on this connection; try again")
