"""Connections: accepting them, moving messages, and keeping each one's faults to itself."""

import contextlib
import errno
import math
import select
import socket
from collections.abc import AsyncGenerator, Sequence

import trio

from nsbroker.daemon.audit import Audit
from nsbroker.daemon.broker import Broker
from nsbroker.daemon.call import Answer, Caller, Stream
from nsbroker.daemon.limits.connections import ConnectionCharge, UserRegistry
from nsbroker.daemon.peer import Peer
from nsbroker.errors import ProtocolError, QuotaExceeded
from nsbroker.linux import ancillary
from nsbroker.varlink import message
from nsbroker.varlink.connection import IncomingCall, ServerConnection
from nsbroker.varlink.framing import END, MESSAGE_MAX

# After so many calls in one go, others get their turn.
_CALLS_IN_A_ROW = 16
_STOP_DEADLINE = 5.0
_STREAM_DEADLINE = 0.5
_DRAIN_INTERVAL = 0.002
_HANG_UP_INTERVAL = 0.2
_TRANSIENT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Server:
    """Serves `broker` to all who connect, until stopped."""

    def __init__(self, broker: Broker, ledger: UserRegistry, audit: Audit) -> None:
        self._broker = broker
        self._ledger = ledger
        self._audit = audit
        self._connections: dict[ConnectionCharge, trio.CancelScope] = {}
        self._last_moment = math.inf
        self._closer = ledger.closer
        # One buffer for all: nothing is awaited between filling and emptying it.
        self._buffer = bytearray(MESSAGE_MAX + len(END))

    async def serve(self, listener: socket.socket, stop: trio.Event) -> None:
        """Accept from `listener` (borrowed, non-blocking) until `stop`; then answer what was sent by then, and return."""
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as accepting:
                accepting.start_soon(self._accept_all, listener, nursery)
                await stop.wait()
                accepting.cancel_scope.cancel()
            self._last_moment = trio.current_time() + _STOP_DEADLINE
            with contextlib.suppress(OSError):
                self._accept_waiting(listener, nursery)
            # Those just accepted enter themselves as their tasks start.
            await trio.lowlevel.checkpoint()
            for lease, scope in self._connections.items():
                # What has arrived can still be read after this, and end of file comes after it.
                lease.sock.shutdown(socket.SHUT_RD)
                scope.deadline = min(scope.deadline, self._last_moment)

    async def _accept_all(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                self._accept_waiting(listener, nursery)
            except OSError as error:
                # Out of files: those who wait stay in the queue until somebody hangs up.
                self._audit.say(f"cannot accept a connection: {error.strerror}")
                await trio.sleep(0.1)

    def _accept_waiting(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _TRANSIENT:
                    raise
                continue
            sock.setblocking(False)
            try:
                self._admit(sock, nursery)
            except Exception as error:
                if isinstance(error, QuotaExceeded):
                    _turn_away(sock, error)
                elif not isinstance(error, OSError):
                    self._audit.say(f"fault: {type(error).__name__}: {error}")
                self._closer.hang_up(sock)

    def _admit(self, sock: socket.socket, nursery: trio.Nursery) -> None:
        """Takes `sock` unless it raises."""
        peer = Peer(sock)
        try:
            lease = self._ledger.lease(peer.user, sock)
        except QuotaExceeded:
            peer.close()
            raise
        nursery.start_soon(self._converse, Caller(peer, lease))

    async def _converse(self, caller: Caller) -> None:
        """Serve one connection to its end.  Takes what the caller holds."""
        wire = ServerConnection()
        lease = caller.lease
        scope = trio.CancelScope()
        self._connections[lease] = scope
        try:
            with scope:
                await self._serve_calls(caller, wire, scope)
        except (OSError, ProtocolError, trio.TooSlowError):
            pass  # The peer's fault, or its end: there is nobody left to tell.
        except Exception as error:
            self._audit.say(f"fault: {type(error).__name__}: {error}")
        finally:
            del self._connections[lease]
            wire.close()
            caller.peer.close()
            self._ledger.give_back(lease)

    async def _serve_calls(self, caller: Caller, wire: ServerConnection, scope: trio.CancelScope) -> None:
        sock = caller.lease.sock
        timed = False
        served = 0
        nothing = 0
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                data, fds = ancillary.receive_piece(sock, self._buffer, END)
            except BlockingIOError:
                # Readable, and nothing to read: out-of-band data, of which varlink has none.
                nothing += 1
                if nothing > 2:
                    return
                continue
            if not data:
                return
            nothing = 0
            wire.receive(data, self._closer.sort_out(fds) if fds else fds)
            while (call := wire.next_call()) is not None:
                served += 1
                if timed:
                    # Its message is whole: what it takes to answer is not the sender's time.
                    timed, scope.deadline = False, self._last_moment
                await self._serve_call(caller, wire, call)
                if served % _CALLS_IN_A_ROW == 0:
                    await trio.lowlevel.checkpoint()
            # The deadline is of one message: one that has started keeps its own, however its bytes trickle in.
            if wire.started and not timed:
                scope.deadline = min(self._last_moment, trio.current_time() + self._ledger.limits.message_deadline)
                timed = True

    async def _serve_call(self, caller: Caller, wire: ServerConnection, call: IncomingCall) -> None:
        lease = caller.lease
        if lease.is_full():
            await self._drained(lease)
        answer = self._broker.answer(caller, call)
        if isinstance(answer, Answer):
            await self._send(lease, wire, call, answer)
        elif isinstance(answer, AsyncGenerator):
            await self._send_all(lease, wire, call, answer)
        else:
            await self._send(lease, wire, call, await answer)

    async def _send_all(self, lease: ConnectionCharge, wire: ServerConnection, call: IncomingCall, answers: Stream) -> None:
        """Send answer after answer, until there is no other or the peer hangs up."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_stream, lease.sock, nursery.cancel_scope)
                async with contextlib.aclosing(answers):
                    async for one in answers:
                        await self._send(lease, wire, call, one)
                nursery.cancel_scope.cancel()
        except ExceptionGroup as group:
            # Only one of the two tasks raises.
            raise group.exceptions[0] from None

    async def _end_stream(self, sock: socket.socket, scope: trio.CancelScope) -> None:
        """End a stream of answers that nobody is there to read any more, or that would outlast the server."""
        while True:
            # Also when the next call is there, which is not for us to read.
            await trio.lowlevel.wait_readable(sock)
            if _has_hung_up(sock):
                scope.cancel()
            elif self._last_moment < math.inf:
                scope.deadline = trio.current_time() + _STREAM_DEADLINE
                await trio.sleep_forever()
            await trio.sleep(_HANG_UP_INTERVAL)

    async def _send(self, lease: ConnectionCharge, wire: ServerConnection, call: IncomingCall, answer: Answer) -> None:
        """Send one answer.  Takes its fds."""
        fds = answer.fds
        try:
            data = wire.reply(call, answer.parameters, continues=answer.continues, error=answer.error)
            if data is None:
                return
            lease.charge(len(fds))
            try:
                sent = ancillary.send(lease.sock, data, fds)
            except BlockingIOError:
                sent = 0
            if sent < len(data):
                await self._send_rest(lease.sock, memoryview(data)[sent:], () if sent else fds)
        finally:
            if answer.closing_waits:
                for fd in fds:
                    self._closer.close(fd)
            elif fds:
                ancillary.close_all(fds)

    async def _send_rest(self, sock: socket.socket, rest: memoryview, fds: Sequence[int]) -> None:
        """Send what found no room at first (borrows `fds`).  Raises TooSlowError when the peer does not read."""
        with trio.fail_after(self._ledger.limits.reply_deadline):
            while rest:
                await trio.lowlevel.wait_writable(sock)
                try:
                    rest = rest[ancillary.send(sock, rest, fds) :]
                except BlockingIOError:
                    continue
                fds = ()

    async def _drained(self, lease: ConnectionCharge) -> None:
        """Wait until the peer has read what it was sent.  Raises TooSlowError when it does not."""
        # The kernel has no event for it: a socket counts as writable long before all was read.
        with trio.fail_after(self._ledger.limits.reply_deadline):
            while not lease.is_read():
                await trio.sleep(_DRAIN_INTERVAL)


def _has_hung_up(sock: socket.socket) -> bool:
    """Whether the peer has closed: not merely its sending half."""
    poll = select.poll()
    poll.register(sock, select.POLLHUP)
    return bool(poll.poll(0))


def _turn_away(sock: socket.socket, error: QuotaExceeded) -> None:
    """Tell a peer that there is no room: the reply is there before its call, whatever that will be."""
    with contextlib.suppress(OSError):
        ancillary.send(sock, message.encode_reply(error.parameters(), error=error.wire_name))
