"""Connections: accepting them, moving messages, and keeping each one's faults to itself."""

import contextlib
import errno
import math
import select
import socket
import time
from collections.abc import AsyncGenerator, Sequence

import trio

from nsbroker.daemon.audit import Audit
from nsbroker.daemon.dispatcher import Broker
from nsbroker.daemon.limits.connections import ConnectionCharge, UserRegistry
from nsbroker.daemon.limits.fair_queue import FairQueue, Turn
from nsbroker.daemon.limits.users import ANONYMOUS
from nsbroker.daemon.methods.call import Answer, Caller, Stream
from nsbroker.daemon.peer import Peer
from nsbroker.errors import ProtocolError, QuotaExceeded
from nsbroker.linux import ancillary
from nsbroker.linux.socket_options import unreceived_bytes
from nsbroker.varlink import message
from nsbroker.varlink.connection import IncomingCall, ServerConnection
from nsbroker.varlink.framing import END, MESSAGE_MAX

# New connections in one pass of the event loop, at most, and the seconds that they take: more wait in the kernel's queue.
_ACCEPTED_IN_A_ROW = 16
_ACCEPTING = 0.0005
# Looks for data on a socket that is said to have some.
_TRIES = 3
_STOP_DEADLINE = 5.0
_STREAM_DEADLINE = 0.5
_PAUSE = 0.002
_HANG_UP_INTERVAL = 0.2
_TRANSIENT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Server:
    """Serves `broker` to all who connect, until stopped."""

    def __init__(self, broker: Broker, users: UserRegistry, audit: Audit) -> None:
        self._broker = broker
        self._users = users
        self._audit = audit
        self._queue = FairQueue()
        self._last_moment = math.inf
        self._closer = users.closer
        # One buffer for all: nothing is awaited between filling and emptying it.
        self._buffer = bytearray(MESSAGE_MAX + len(END))

    async def serve(self, listener: socket.socket, stop: trio.Event) -> None:
        """Accept from `listener` (borrowed, non-blocking) until `stop`; then answer what was sent by then, and return."""
        trio.lowlevel.add_instrument(self._queue)
        async with trio.open_nursery() as turns:
            turns.start_soon(self._queue.run)
            async with trio.open_nursery() as nursery:
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(self._accept_all, listener, nursery)
                    await stop.wait()
                    accepting.cancel_scope.cancel()
                self._last_moment = trio.current_time() + _STOP_DEADLINE
                with contextlib.suppress(OSError):
                    while self._accept_some(listener, nursery):
                        pass
                for charge in self._users.served():
                    # What has arrived can still be read after this, and end of file comes after it.
                    with contextlib.suppress(OSError):
                        charge.sock.shutdown(socket.SHUT_RD)
                    charge.scope.deadline = min(charge.scope.deadline, self._last_moment)
            turns.cancel_scope.cancel()

    async def _accept_all(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            # Also when somebody is there already, this lets everybody else go on first.
            await trio.lowlevel.wait_readable(listener)
            try:
                self._accept_some(listener, nursery)
            except OSError as error:
                # Out of files: those who wait stay in the queue until somebody hangs up.
                self._audit.say(f"cannot accept a connection: {error.strerror}")
                await trio.sleep(0.1)

    def _accept_some(self, listener: socket.socket, nursery: trio.Nursery) -> bool:
        """Accept as many as others should wait for; whether there may be more."""
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
            if _has_left(sock):
                # It asked nothing: looking at who it was would cost more than all the rest.
                sock.close()
                continue
            sock.setblocking(False)
            try:
                self._admit(sock, nursery)
            except Exception as error:
                if not isinstance(error, OSError):
                    self._audit.say(f"fault: {type(error).__name__}: {error}")
                self._closer.hang_up(sock, ANONYMOUS)
        return True

    def _admit(self, sock: socket.socket, nursery: trio.Nursery) -> None:
        """Serve `sock`, or tell it that there is no room.  Takes it unless this raises."""
        peer = Peer(sock)
        try:
            charge = self._users.admit(peer.user, sock)
        except QuotaExceeded as error:
            peer.close()
            _turn_away(sock, error)
            self._closer.hang_up(sock, peer.user)
            return
        charge.scope.deadline = self._last_moment
        nursery.start_soon(self._converse, Caller(peer, charge))

    async def _converse(self, caller: Caller) -> None:
        """Serve one connection to its end.  Takes what the caller holds."""
        wire = ServerConnection()
        try:
            with caller.charge.scope:
                await self._serve_calls(caller, wire)
        except (OSError, ProtocolError, trio.TooSlowError):
            pass  # The peer's fault, or its end: there is nobody left to tell.
        except Exception as error:
            self._audit.say(f"fault: {type(error).__name__}: {error}")
        finally:
            wire.close()
            caller.peer.close()
            self._users.give_back(caller.charge)

    async def _serve_calls(self, caller: Caller, wire: ServerConnection) -> None:
        charge = caller.charge
        scope = charge.scope
        turn = Turn(self._queue, charge.user.number)
        timed = False
        while await self._receive(charge, wire, turn):
            while (call := wire.next_call()) is not None:
                if timed:
                    # The message is complete: stop its receive deadline.
                    timed, scope.deadline = False, self._last_moment
                if turn.is_over():
                    await turn.another()
                charge.busy = True
                await self._serve_call(caller, wire, call, turn)
                charge.busy = False
            turn.pause()
            # The deadline is of one message: one that has started keeps its own, however its bytes trickle in.
            if wire.started and not timed:
                scope.deadline = min(self._last_moment, trio.current_time() + self._users.limits.message_deadline)
                timed = True

    async def _receive(self, charge: ConnectionCharge, wire: ServerConnection, turn: Turn) -> bool:
        """Receive something, when it is the user's turn, which goes on; False at the end."""
        sock, user = charge.sock, charge.user.number
        for _ in range(_TRIES):
            await trio.lowlevel.wait_readable(sock)
            if self._closer.is_full(user):
                await self._wait_for_closing(user)
            await turn.take()
            try:
                data, fds = ancillary.receive_piece(sock, self._buffer, END)
            except BlockingIOError:
                # Readable, and nothing to read: out-of-band data, of which varlink has none.
                turn.pause()
                continue
            if data:
                wire.receive(data, self._closer.sort_out(fds, user) if fds else fds)
                charge.last_used = time.monotonic()
            return bool(data)
        return False

    async def _wait_for_closing(self, user: int) -> None:
        """Wait until fewer of the user's descriptors wait to be closed.  Raises TooSlowError when that takes too long."""
        with trio.fail_after(self._users.limits.message_deadline):
            while self._closer.is_full(user):
                await trio.sleep(_PAUSE)

    async def _serve_call(self, caller: Caller, wire: ServerConnection, call: IncomingCall, turn: Turn) -> None:
        charge = caller.charge
        if charge.is_full():
            turn.pause()
            await self._drained(charge)
            await turn.take()
        answer = self._broker.answer(caller, call)
        if isinstance(answer, AsyncGenerator):
            await self._send_all(charge, wire, call, answer, turn)
            return
        if not isinstance(answer, Answer):
            turn.pause()
            answer = await answer
            turn.resume()
        await self._send(charge, wire, call, answer, turn)

    async def _send_all(
        self, charge: ConnectionCharge, wire: ServerConnection, call: IncomingCall, answers: Stream, turn: Turn
    ) -> None:
        """Send answer after answer, until there is no other.

        Raises ConnectionResetError when the peer hangs up meanwhile, TooSlowError when the server stops.
        """
        is_whole = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_stream, charge.sock, nursery.cancel_scope)
                async with contextlib.aclosing(answers):
                    turn.pause()
                    async for one in answers:
                        turn.resume()
                        if turn.is_over():
                            await turn.another()
                        await self._send(charge, wire, call, one, turn)
                        turn.pause()
                    turn.resume()
                is_whole = True
                nursery.cancel_scope.cancel()
        except ExceptionGroup as group:
            # Only one of the two tasks raises.
            raise group.exceptions[0] from None
        if not is_whole:
            # Calls that were sent behind it can no longer be answered in their order.
            raise trio.TooSlowError

    async def _end_stream(self, sock: socket.socket, scope: trio.CancelScope) -> None:
        """End a stream of answers that nobody is there to read any more, or that would outlast the server."""
        while True:
            # Also when the next call is there, which is not for us to read.
            await trio.lowlevel.wait_readable(sock)
            if _has_hung_up(sock):
                raise ConnectionResetError
            if self._last_moment < math.inf:
                scope.deadline = trio.current_time() + _STREAM_DEADLINE
                await trio.sleep_forever()
            await trio.sleep(_HANG_UP_INTERVAL)

    async def _send(self, charge: ConnectionCharge, wire: ServerConnection, call: IncomingCall, answer: Answer, turn: Turn) -> None:
        """Send one answer.  Takes its fds."""
        fds = answer.fds
        try:
            data = wire.reply(call, answer.parameters, continues=answer.continues, error=answer.error)
            if data is None:
                return
            charge.charge(len(fds))
            try:
                sent = ancillary.send(charge.sock, data, fds)
            except BlockingIOError:
                sent = 0
            if sent < len(data):
                turn.pause()
                await self._send_rest(charge.sock, memoryview(data)[sent:], () if sent else fds)
                turn.resume()
        finally:
            if fds:
                answer.close(self._closer, charge.user.number)

    async def _send_rest(self, sock: socket.socket, rest: memoryview, fds: Sequence[int]) -> None:
        """Send what found no room at first (borrows `fds`).  Raises TooSlowError when the peer does not read."""
        with trio.fail_after(self._users.limits.reply_deadline):
            while rest:
                await trio.lowlevel.wait_writable(sock)
                try:
                    rest = rest[ancillary.send(sock, rest, fds) :]
                except BlockingIOError:
                    continue
                fds = ()

    async def _drained(self, charge: ConnectionCharge) -> None:
        """Wait until the peer has read what it was sent.  Raises TooSlowError when it does not."""
        # The kernel has no event for it: a socket counts as writable long before all was read.
        with trio.fail_after(self._users.limits.reply_deadline):
            while not charge.is_read():
                await trio.sleep(_PAUSE)


def _has_hung_up(sock: socket.socket) -> bool:
    """Whether the peer has closed: not merely its sending half."""
    poll = select.poll()
    poll.register(sock, select.POLLHUP)
    return bool(poll.poll(0))


def _has_left(sock: socket.socket) -> bool:
    """Whether the peer has closed without having sent anything."""
    return _has_hung_up(sock) and not unreceived_bytes(sock)


def _turn_away(sock: socket.socket, error: QuotaExceeded) -> None:
    """Tell a peer that there is no room: the reply is there before its call, whatever that will be."""
    with contextlib.suppress(OSError):
        ancillary.send(sock, message.encode_reply(error.parameters(), error=error.wire_name))
