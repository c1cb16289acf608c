"""One connection to the system bus: logging in, and messages there and back."""

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

PLACE = "/run/dbus/system_bus_socket"
_HEADER = 16
_REPLY_MAX = 4 * 1024 * 1024
# Anybody may send us signals of any size.  So much of them is put up with: what the bus itself sends is far less.
_UNREAD_MAX = 4096
_SKIPPED_MAX = 64 * 1024 * 1024


class ConnectionLostError(Exception):
    """The connection is of no use any more.  What was asked may be asked again on another: questions change nothing."""


class _Pending:
    """A question under way."""

    def __init__(self, answered: Callable[[], None]) -> None:
        self.since = trio.current_time()
        self.done = trio.Event()
        self.reply: Message | None = None
        self.fault = "D-Bus hung up"
        self._answered = answered

    def finish(self, reply: Message | None) -> None:
        self.reply = reply
        self.done.set()
        self._answered()


class Connection:
    """Logged in, with any number of questions under way; `serve` reads the answers, and closes it in the end."""

    def __init__(self, stream: trio.SocketStream) -> None:
        """Takes `stream`."""
        self._stream = stream
        self._serial = 0
        self._buffer = bytearray()
        self._pending: dict[int, _Pending] = {}
        self._asked = trio.Event()
        self.is_closed = False

    def is_usable(self) -> bool:
        """Whether to ask over it.  One that was filled with signals while nobody read from it is better left behind."""
        return not self.is_closed and (bool(self._pending) or self._unread() <= _UNREAD_MAX)

    def _unread(self) -> int:
        answer = fcntl.ioctl(self._stream.socket.fileno(), termios.FIONREAD, struct.pack("i", 0))
        return int(struct.unpack("i", answer)[0])

    async def ask(self, message: Message, answered: Callable[[], None]) -> Message:
        """The reply.  `answered` is called when it has come, or never will: perhaps after the caller was cancelled.

        Raises ConnectionLostError.
        """
        self._serial += 1
        pending = self._pending[self._serial] = _Pending(answered)
        self._asked.set()
        self._send(message.serialise(self._serial))
        await pending.done.wait()
        if pending.reply is None:
            raise ConnectionLostError(pending.fault)
        return pending.reply

    def _send(self, data: bytes) -> None:
        # In one piece or not at all, so that whoever is cancelled leaves no half message.  There is always room for the few
        # short ones that are under way at a time, unless nobody at the other end reads.
        try:
            if os.write(self._stream.socket.fileno(), data) != len(data):
                self.close("D-Bus does not read what is asked")
        except OSError as error:
            self.close(f"D-Bus hung up: {error.strerror}")

    async def serve(self, idle: float, patience: float) -> None:
        """Read answers, until nothing was asked for `idle` seconds or a question waits for `patience` seconds."""
        reason = "D-Bus hung up"
        try:
            while not self.is_closed:
                if not self._pending:
                    # Not read from while nobody asks: who sends us signals then shall fill their own queue, not our time.
                    self._asked = trio.Event()
                    with trio.move_on_after(idle):
                        await self._asked.wait()
                    if not self._pending:
                        return
                oldest = next(iter(self._pending.values())).since
                with trio.fail_at(oldest + patience):
                    await self._deliver()
        except trio.TooSlowError:
            reason = f"no answer in {patience:g} s"
        except ConnectionLostError as error:
            reason = str(error)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            reason = f"D-Bus hung up: {error}"
        except Exception as error:
            reason = f"D-Bus sends what makes no sense: {type(error).__name__}: {error}"
        finally:
            self.close(reason)

    def close(self, reason: str) -> None:
        """Close it; what is under way fails for `reason`."""
        if not self.is_closed:
            self.is_closed = True
            self._stream.socket.close()
        self._asked.set()
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
        """The next reply.  What is no reply is skipped, and not parsed."""
        skipped = 0
        while True:
            await self._fill(_HEADER)
            size = calc_msg_size(bytes(self._buffer[:_HEADER]))
            if self._buffer[1] not in (MessageType.method_return.value, MessageType.error.value):
                skipped += size
                if skipped > _SKIPPED_MAX:
                    raise ConnectionLostError(f"D-Bus sends more than {_SKIPPED_MAX} bytes that nobody asked for")
                await self._skip(size)
                continue
            if size > _REPLY_MAX:
                raise ConnectionLostError(f"D-Bus answers with more than {_REPLY_MAX} bytes")
            await self._fill(size)
            data = bytes(self._buffer[:size])
            del self._buffer[:size]
            return Message.from_buffer(data)

    async def _fill(self, size: int) -> None:
        while len(self._buffer) < size:
            piece = await self._stream.receive_some()
            if not piece:
                raise ConnectionLostError("D-Bus hung up")
            self._buffer += piece

    async def _skip(self, size: int) -> None:
        while size > 0:
            await self._fill(1)
            done = min(size, len(self._buffer))
            del self._buffer[:done]
            size -= done

    async def log_in(self) -> None:
        """Become known to the bus.  Before `serve`.  Raises OSError, AuthenticationError and trio's errors of streams."""
        # Not jeepney's own connection: cancelled half-way it leaves the socket open, and it parses whatever comes.
        await self._stream.send_all(b"\0")
        login = Authenticator(inc_null_byte=False)
        for request in login:
            await self._stream.send_all(request)
            login.feed(await self._stream.receive_some())
        await self._stream.send_all(BEGIN)
        self._serial += 1
        await self._stream.send_all(message_bus.Hello().serialise(self._serial))
        await self._receive()


async def connect() -> Connection:
    """A connection that is logged in (the caller's to serve).  Raises OSError, ConnectionLostError, AuthenticationError."""
    facts = os.stat(PLACE)
    if not stat.S_ISSOCK(facts.st_mode) or facts.st_uid != 0:
        raise ConnectionLostError(f"{PLACE} is not a socket of root's")
    connection = Connection(await trio.open_unix_socket(PLACE))
    try:
        await connection.log_in()
    except BaseException as error:
        connection.close("not logged in")
        if isinstance(error, trio.BrokenResourceError):
            raise ConnectionLostError(f"D-Bus hung up: {error}") from error
        raise
    return connection
