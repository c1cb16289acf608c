"""The server: it accepts connections, receives calls and sends replies.  An error on one connection ends no other."""

import contextlib
import errno
import math
import select
import socket
import time
from collections.abc import AsyncGenerator

import trio

from nsbroker.daemon.audit import Audit
from nsbroker.daemon.dispatcher import Dispatcher
from nsbroker.daemon.limits.connections import ConnectionCharge, UserRegistry
from nsbroker.daemon.limits.deadline import fail_after
from nsbroker.daemon.limits.fair_queue import FairQueue, Turn
from nsbroker.daemon.limits.shared_poll import SharedPoll
from nsbroker.daemon.limits.users import ANONYMOUS
from nsbroker.daemon.methods.call import Caller, PendingReply, Reply, ReplyStream
from nsbroker.daemon.outbox import GRACE, Outbox, ReadingTime
from nsbroker.daemon.peer import Peer
from nsbroker.errors import ProtocolError, QuotaExceeded
from nsbroker.linux import ancillary
from nsbroker.linux.socket_options import unreceived_bytes
from nsbroker.varlink import message
from nsbroker.varlink.connection import IncomingCall, ServerConnection
from nsbroker.varlink.framing import END, MESSAGE_MAX

# At most this many new connections are accepted in one pass of the event loop, for at most _ACCEPTING seconds.  The others wait
# in the kernel's queue.
_ACCEPTED_IN_A_ROW = 32
_ACCEPTING = 0.001
# When the broker stops, it accepts what waits in the queue for this many seconds at most.
_LAST_ACCEPTING = 0.2
# When the broker stops, calls that have begun have this many seconds to end.
_STOP_DEADLINE = 5.0
# Seconds between two looks whether a peer has read what it was sent: at first, and at most.
_PAUSE = 0.002
_PAUSE_MAX = 0.05
# Seconds between two looks whether peers have read the last replies on connections that are over.
_HANG_UP_INTERVAL = 0.2
_TRANSIENT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Server:
    """Accepts connections and serves their calls with `dispatcher`, until it is stopped."""

    def __init__(self, dispatcher: Dispatcher, users: UserRegistry, audit: Audit) -> None:
        self._dispatcher = dispatcher
        self._users = users
        self._audit = audit
        self._queue = FairQueue()
        self._stop_deadline = math.inf
        self._reading_time = ReadingTime(users)
        self._closer = users.closer
        self._closing = SharedPoll(users.closer.is_full)
        # All connections share one buffer: nothing is awaited between filling and emptying it.
        self._buffer = bytearray(MESSAGE_MAX + len(END))

    async def serve(self, listener: socket.socket, stop: trio.Event) -> None:
        """Accept connections from `listener` (borrowed, non-blocking) until `stop` is set.

        Then answer the calls that were sent by then, for a few seconds at most, and return.
        """
        trio.lowlevel.add_instrument(self._queue)
        async with trio.open_nursery() as queueing:
            queueing.start_soon(self._queue.run)
            async with trio.open_nursery() as nursery:
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(self._accept_all, listener, nursery)
                    await stop.wait()
                    accepting.cancel_scope.cancel()
                self._stop_deadline = trio.current_time() + _STOP_DEADLINE
                # Whoever keeps connecting must not keep the others waiting for their replies.
                last = time.monotonic() + _LAST_ACCEPTING
                with contextlib.suppress(OSError):
                    while self._accept_some(listener, nursery) and time.monotonic() < last:
                        pass
                self._reading_time.stop()
                for charge in self._users.served():
                    # Data that has arrived can still be read after this; then the socket is at its end of file.
                    with contextlib.suppress(OSError):
                        charge.sock.shutdown(socket.SHUT_RD)
                    charge.scope.deadline = min(charge.scope.deadline, self._stop_deadline)
            queueing.cancel_scope.cancel()

    async def _accept_all(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            # This is a checkpoint even when a connection is waiting already: all other tasks run first.
            await trio.lowlevel.wait_readable(listener)
            try:
                self._accept_some(listener, nursery)
            except OSError as error:
                # The broker is out of files or memory: new connections stay in the queue until others are closed.
                self._audit.say(f"cannot accept a connection: {error.strerror}; trying again")
                await trio.sleep(0.1)

    def _accept_some(self, listener: socket.socket, nursery: trio.Nursery) -> bool:
        """Accept a limited number of connections.  Return whether more may be waiting."""
        end = time.monotonic() + _ACCEPTING
        for _ in range(_ACCEPTED_IN_A_ROW):
            if time.monotonic() > end:
                break
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno in _TRANSIENT:
                    raise
                continue
            # Otherwise the kernel would drop an out-of-band byte, and close on this thread the descriptors that came with it.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            events = _poll(sock)
            if events & select.POLLHUP and not unreceived_bytes(sock):
                # It sent no call: reading the peer's credentials would cost more than everything else.
                sock.close()
                continue
            sock.setblocking(False)
            try:
                self._admit(sock, bool(events & select.POLLIN), nursery)
            except Exception as error:
                if not isinstance(error, OSError):
                    self._audit.say(f"internal error: {type(error).__name__}: {error}")
                self._closer.hang_up(sock, ANONYMOUS)
        return True

    def _admit(self, sock: socket.socket, is_readable: bool, nursery: trio.Nursery) -> None:
        """Serve `sock`, or send QuotaExceeded and hang up when there is no room.  Takes `sock` unless this raises."""
        began = time.monotonic()
        peer = Peer(sock)
        try:
            charge = self._users.admit(peer.user, sock)
        except QuotaExceeded as error:
            self._dispatcher.count_limit(error)
            peer.close()
            _send_refusal(sock, error)
            self._closer.hang_up(sock, peer.user)
        else:
            charge.scope.deadline = self._stop_deadline
            nursery.start_soon(self._serve_connection, Caller(peer, charge), is_readable)
        self._queue.spend(peer.user, time.monotonic() - began)

    async def _serve_connection(self, caller: Caller, is_readable: bool) -> None:
        """Serve one connection to its end.  Takes the caller's peer and charge.  `is_readable`: data has arrived already."""
        connection, turn = ServerConnection(), Turn(self._queue, caller.charge.user.number)
        outbox = Outbox(caller.charge, connection, self._users, self._reading_time)
        fault = ""
        try:
            try:
                with caller.charge.scope:
                    await self._serve_calls(caller, connection, outbox, turn, is_readable)
                if self._was_too_late(caller.charge, connection):
                    seconds = self._users.limits.message_deadline
                    fault = f"the message was not complete, with a NUL byte at its end, within {seconds:g} s"
            except ProtocolError as error:
                fault = str(error)
                # The calls before it were good.  Whether or not the peer reads their replies, the fault is recorded.
                with contextlib.suppress(OSError, trio.TooSlowError):
                    await outbox.send_all(turn)
            if fault:
                # Varlink has no error for this, and nothing after it on this connection can be trusted: it ends without a reply.
                self._audit.record(caller.peer, "", "", "malformed", error=fault)
        except (OSError, trio.TooSlowError):
            pass  # The peer hung up or was too slow: nobody is left to send an error to.
        except Exception as error:
            self._audit.say(f"internal error: {type(error).__name__}: {error}")
        finally:
            turn.resume()
            outbox.close()
            connection.close()
            caller.peer.close()
            self._users.give_back(caller.charge)
            turn.pause()

    def _was_too_late(self, charge: ConnectionCharge, connection: ServerConnection) -> bool:
        """Return whether the connection has ended because a message was not complete in time."""
        was_cut = charge.scope.cancelled_caught and connection.started
        return was_cut and not charge.evicted and self._stop_deadline == math.inf

    async def _serve_calls(
        self, caller: Caller, connection: ServerConnection, outbox: Outbox, turn: Turn, is_readable: bool
    ) -> None:
        charge = caller.charge
        scope = charge.scope
        timed = False
        while await self._receive(charge, connection, turn, is_readable):
            is_readable = False
            while (call := connection.next_call()) is not None:
                if timed:
                    # The message is complete: stop its receive deadline.
                    timed, scope.deadline = False, self._stop_deadline
                if turn.count_call():
                    await outbox.send_all(turn)
                    charge.busy = False
                    await turn.start_next()
                charge.busy = True
                if charge.is_full() or self._dispatcher.must_identify(caller.peer):
                    await outbox.send_all(turn)
                    await self._prepare(caller, turn)
                reply = self._dispatcher.dispatch(caller, call)
                if isinstance(reply, Reply):
                    outbox.add(call, reply)
                else:
                    # Nothing may be awaited or fail before the reply: what the call has begun would never be ended.
                    await self._serve_slowly(charge.sock, outbox, call, reply, turn)
            if not outbox.send():
                await outbox.send_all(turn)
            charge.busy = False
            turn.pause()
            # Each message has one deadline, from its first byte on.  Further bytes of the same message do not extend it.
            if connection.started and not timed:
                scope.deadline = min(self._stop_deadline, trio.current_time() + self._users.limits.message_deadline)
                timed = True

    async def _receive(self, charge: ConnectionCharge, connection: ServerConnection, turn: Turn, is_readable: bool) -> bool:
        """Wait for data and for the user's turn, and receive.  Return False at the end of file.

        The turn has begun, and goes on, when this returns.  With `is_readable`, do not wait for data: that would take a whole
        pass of the event loop, even when the data is there.
        """
        sock, user = charge.sock, charge.user.number
        if not is_readable:
            await trio.lowlevel.wait_readable(sock)
        if self._closer.is_full(user):
            with fail_after(self._users.limits.message_deadline):
                await self._closing.wait(user)
        if not turn.take_at_once():
            await turn.take()
        data, fds = ancillary.receive_piece(sock, self._buffer, END)
        if not data:
            turn.pause()
            return False
        connection.receive(data, self._closer.replace_non_pidfds(fds, user) if fds else fds)
        charge.last_used = time.monotonic()
        return True

    async def _prepare(self, caller: Caller, turn: Turn) -> None:
        """Do what must come before the next call: wait until the peer has read, and find out in which container it is."""
        if caller.charge.is_full():
            turn.pause()
            await self._wait_until_read(caller.charge)
            await turn.take()
        if self._dispatcher.must_identify(caller.peer):
            turn.pause()
            await self._dispatcher.identify(caller.peer)
            await turn.take()

    async def _serve_slowly(
        self, sock: socket.socket, outbox: Outbox, call: IncomingCall, reply: PendingReply | ReplyStream, turn: Turn
    ) -> None:
        """Wait for the reply, or the replies, and send what comes."""
        if isinstance(reply, AsyncGenerator):
            await self._send_stream(sock, outbox, call, reply, turn)
            return
        turn.pause()
        await outbox.add_later(call, reply)
        turn.resume()
        await outbox.send_all(turn)

    async def _send_stream(self, sock: socket.socket, outbox: Outbox, call: IncomingCall, replies: ReplyStream, turn: Turn) -> None:
        """Send all replies of a stream.

        Raises ConnectionResetError when the peer hangs up meanwhile, TooSlowError when the server stops.
        """
        is_whole = False
        errors: list[Exception] = []
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_stream, sock, nursery.cancel_scope)
                async with contextlib.aclosing(replies):
                    turn.pause()
                    with contextlib.suppress(StopAsyncIteration):
                        while True:
                            await outbox.add_later(call, anext(replies))
                            turn.resume()
                            if turn.count_call():
                                await turn.start_next()
                            await outbox.send_all(turn)
                            turn.pause()
                    turn.resume()
                is_whole = True
                nursery.cancel_scope.cancel()
        except ExceptionGroup as group:
            errors += group.exceptions
        if errors:
            # Only one of the two tasks can raise.  An error that the group or this frame referred to would stay in memory until
            # a full garbage collection.
            raise errors.pop()
        if not is_whole:
            # The stream was cut off, so later calls on this connection can no longer be answered in order: end the connection.
            raise trio.TooSlowError

    async def _end_stream(self, sock: socket.socket, scope: trio.CancelScope) -> None:
        """End a stream of replies when the peer has hung up, or shortly after the server began to stop."""
        while True:
            # The socket is also readable when the peer has sent its next call.  This task only looks for a hang-up, and must not
            # read that call.
            await trio.lowlevel.wait_readable(sock)
            if _has_hung_up(sock):
                raise ConnectionResetError
            if self._stop_deadline < math.inf:
                scope.deadline = trio.current_time() + GRACE
                await trio.sleep_forever()
            await trio.sleep(_HANG_UP_INTERVAL)

    async def _wait_until_read(self, charge: ConnectionCharge) -> None:
        """Wait until the peer has read everything it was sent.  Raises TooSlowError as `ReadingTime.limit` does."""
        # The kernel reports no event for this: a socket becomes writable long before everything has been read.
        pause = _PAUSE
        with self._reading_time.limit():
            while not charge.recount():
                await trio.sleep(pause)
                # A user can have hundreds of connections that never read.
                pause = min(2 * pause, _PAUSE_MAX)


def _has_hung_up(sock: socket.socket) -> bool:
    """Return whether the peer has closed the connection, and not only shut down its sending half."""
    return bool(_poll(sock) & select.POLLHUP)


def _poll(sock: socket.socket) -> int:
    """Return which of POLLIN and POLLHUP hold for the socket now (poll(2))."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    found = poll.poll(0)
    return found[0][1] if found else 0


def _send_refusal(sock: socket.socket, error: QuotaExceeded) -> None:
    """Send `error` to a peer for which there is no room, without waiting for its call: the reply fits any call."""
    with contextlib.suppress(OSError):
        ancillary.send(sock, message.encode_reply(error.parameters(), error=error.wire_name))
