"""One connection to the system bus: logging in, sending calls and receiving replies."""

import fcntl
import os
import stat
import struct
import termios
from collections.abc import Callable

import trio
from jeepney.auth import BEGIN, Authenticator
from jeepney.bus_messages import message_bus
from jeepney.low_level import HeaderFields, Message, MessageType, calc_msg_size

from nsbroker.daemon.limits.deadline import fail_at

PLACE = "/run/dbus/system_bus_socket"
_HEADER = 16
_REPLY_MAX = 4 * 1024 * 1024
# Any program on the bus may send us signals of any size.  These are the most bytes of them that may wait unread on an idle
# connection, and that are skipped before a reply.  What the bus itself sends is far less.
_UNREAD_MAX = 4096
_SKIPPED_MAX = 64 * 1024 * 1024


class ConnectionLostError(Exception):
    """The connection cannot be used any more.  The call may be repeated over another: the calls made here change nothing."""


class _Pending:
    """A call that waits for its reply."""

    def __init__(self, on_done: Callable[[], None]) -> None:
        self.since = trio.current_time()
        self.done = trio.Event()
        self.reply: Message | None = None
        self.fault = "D-Bus closed the connection"
        self._on_done = on_done

    def finish(self, reply: Message | None) -> None:
        self.reply = reply
        self.done.set()
        self._on_done()


class Connection:
    """A connection with any number of calls in flight.  `serve` reads the replies, and closes it at the end."""

    def __init__(self, stream: trio.SocketStream) -> None:
        """Takes `stream`.  Call `log_in` next."""
        self._stream = stream
        self._serial = 0
        self._buffer = bytearray()
        self._pending: dict[int, _Pending] = {}
        self._called = trio.Event()
        self.is_closed = False

    def is_usable(self) -> bool:
        """Return whether to call over it.  An idle connection that was filled with signals is better replaced by a new one."""
        return not self.is_closed and (bool(self._pending) or self._count_unread() <= _UNREAD_MAX)

    def _count_unread(self) -> int:
        count = fcntl.ioctl(self._stream.socket.fileno(), termios.FIONREAD, struct.pack("i", 0))
        return int(struct.unpack("i", count)[0])

    async def call(self, message: Message, on_done: Callable[[], None]) -> Message:
        """Send a method call and return its reply.  Raises ConnectionLostError.

        `on_done` is called when the reply has come or can no longer come, even if this caller was cancelled before.
        """
        self._serial += 1
        pending = self._pending[self._serial] = _Pending(on_done)
        self._called.set()
        self._send(message.serialise(self._serial))
        await pending.done.wait()
        if pending.reply is None:
            raise ConnectionLostError(pending.fault)
        return pending.reply

    def _send(self, data: bytes) -> None:
        # The message is written in one piece or not at all, so that a cancelled caller leaves no half message behind.  There is
        # always room for the few short calls that are in flight at a time, unless the bus does not read.
        try:
            if os.write(self._stream.socket.fileno(), data) != len(data):
                self.close("D-Bus does not read our calls")
        except OSError as error:
            self.close(f"D-Bus closed the connection: {error.strerror}")

    async def serve(self, idle: float, patience: float) -> None:
        """Read replies, and close the connection at the end.

        It ends when there was no call for `idle` seconds, or when a call has waited for `patience` seconds.
        """
        reason = "D-Bus closed the connection"
        try:
            while not self.is_closed:
                if not self._pending:
                    # Nothing is read while no call waits: signals that others send then fill up a queue, but take none of our time.
                    self._called = trio.Event()
                    with trio.move_on_after(idle):
                        await self._called.wait()
                    if not self._pending:
                        return
                oldest = next(iter(self._pending.values())).since
                with fail_at(oldest + patience):
                    await self._deliver()
        except trio.TooSlowError:
            reason = f"no answer in {patience:g} s"
        except ConnectionLostError as error:
            reason = str(error)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            reason = f"D-Bus closed the connection: {error}"
        except Exception as error:
            reason = f"D-Bus sent a message that makes no sense: {type(error).__name__}: {error}"
        finally:
            self.close(reason)

    def close(self, reason: str) -> None:
        """Close the connection.  Calls in flight fail with `reason`."""
        if not self.is_closed:
            self.is_closed = True
            self._stream.socket.close()
        self._called.set()
        while self._pending:
            _, pending = self._pending.popitem()
            pending.fault = reason
            pending.finish(None)

    async def _deliver(self) -> None:
        reply = await self._receive()
        pending = self._pending.pop(reply.header.fields.get(HeaderFields.reply_serial), None)
        if pending is not None:
            pending.finish(reply)

    async def _receive(self) -> Message:
        """Return the next reply.  Other messages are skipped, and not parsed."""
        skipped = 0
        while True:
            await self._fill(_HEADER)
            size = calc_msg_size(bytes(self._buffer[:_HEADER]))
            if self._buffer[1] not in (MessageType.method_return.value, MessageType.error.value):
                skipped += size
                if skipped > _SKIPPED_MAX:
                    raise ConnectionLostError(f"D-Bus sent more than {_SKIPPED_MAX} bytes of other messages instead of a reply")
                await self._skip(size)
                continue
            if size > _REPLY_MAX:
                raise ConnectionLostError(f"D-Bus sent a reply of more than {_REPLY_MAX} bytes")
            await self._fill(size)
            data = bytes(self._buffer[:size])
            del self._buffer[:size]
            return Message.from_buffer(data)

    async def _fill(self, size: int) -> None:
        while len(self._buffer) < size:
            piece = await self._stream.receive_some()
            if not piece:
                raise ConnectionLostError("D-Bus closed the connection")
            self._buffer += piece

    async def _skip(self, size: int) -> None:
        while size > 0:
            await self._fill(1)
            done = min(size, len(self._buffer))
            del self._buffer[:done]
            size -= done

    async def log_in(self) -> None:
        """Authenticate and say Hello to the bus.  Call it before `serve`.

        Raises OSError, AuthenticationError, ConnectionLostError and trio's errors of streams.
        """
        # jeepney's own connection is not used: it leaves the socket open when it is cancelled, and it parses every message.
        await self._stream.send_all(b"\0")
        login = Authenticator(inc_null_byte=False)
        for request in login:
            await self._stream.send_all(request)
            data = await self._stream.receive_some()
            if not data:
                raise ConnectionLostError(f"{PLACE}: the bus hung up during the login")
            login.feed(data)
        await self._stream.send_all(BEGIN)
        self._serial += 1
        await self._stream.send_all(message_bus.Hello().serialise(self._serial))
        await self._receive()


async def connect() -> Connection:
    """Connect to the system bus and log in.  The caller runs `serve`, which also closes the connection.

    Raises OSError, ConnectionLostError, AuthenticationError.
    """
    facts = os.stat(PLACE)
    if not stat.S_ISSOCK(facts.st_mode) or facts.st_uid != 0:
        raise ConnectionLostError(f"{PLACE} is not a socket that root owns")
    connection = Connection(await trio.open_unix_socket(PLACE))
    try:
        await connection.log_in()
    except BaseException as error:
        connection.close("logging in to D-Bus failed")
        if isinstance(error, trio.BrokenResourceError):
            raise ConnectionLostError(f"D-Bus closed the connection: {error}") from error
        raise
    return connection
