"""Relay bytes between two connected sockets, in both directions.

Small pieces are copied: that is one recv(2) and one send(2).  While larger pieces arrive, splice(2) moves them through a pipe, so
that the bytes stay in the kernel.  When no pipe can be made, they are copied as well.

What the receiving socket has no room for waits.  Until it is gone, nothing more is read (backpressure).  When one direction ends,
only that direction is closed (half-close).  When one connection breaks, or the relay is cancelled, the other connection is reset
as well.
"""

import asyncio
import contextlib
import fcntl
import os
import socket
import struct

from msgspec import Struct

_PIPE_SIZE = 256 * 1024
# A piece of this size or more is followed by splice(2).
_LARGE = 16 * 1024
# The number of unused pipes that are kept for later connections.  All others are closed.
_SPARE_PIPES_MAX = 32
# After this number of pieces, other connections get a turn on the event loop.
_PIECES_IN_A_ROW = 16
_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_LINGER_ZERO = struct.pack("ii", 1, 0)


class Count(Struct):
    """A number of bytes."""

    bytes: int = 0


class Traffic(Struct):
    """Counts the bytes from where a connection came, and those back to it."""

    sent: Count
    received: Count

    @classmethod
    def none(cls) -> "Traffic":
        """Return the counts of a new connection."""
        return cls(Count(), Count())


class Relay:
    """Relays bytes between any number of pairs of sockets.

    It owns the pipes, and the pairs share them: a direction needs a pipe only while bytes are moving.
    """

    def __init__(self) -> None:
        self._pipes: list[tuple[int, int]] = []

    async def run(self, left: socket.socket, right: socket.socket, traffic: Traffic) -> None:
        """Relay until both directions have ended, and count the bytes.

        Takes both sockets, which must be non-blocking, and of TCP or Unix streams.
        """
        directions: list[_Direction] = []
        try:
            for sock in (left, right):
                if sock.family == socket.AF_UNIX:
                    continue
                # Pass on each piece at once, as its sender wrote it: do not collect small writes (Nagle's algorithm).
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # Relay urgent bytes like all others.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            for source, sink, count in ((left, right, traffic.sent), (right, left, traffic.received)):
                directions.append(_Direction(self, source, sink, count))
            await asyncio.gather(*(direction.ended for direction in directions))
        except BaseException as error:
            # A reset tells the peers that the connection broke.  A normal close would look like the end of the data.
            reset(left)
            reset(right)
            if not isinstance(error, OSError):
                raise
        finally:
            for direction in directions:
                direction.close()
            left.close()
            right.close()

    def take_pipe(self) -> tuple[int, int]:
        """Return an empty pipe (now the caller's).  Raises OSError, such as EMFILE, if there is none and none can be made."""
        if self._pipes:
            return self._pipes.pop()
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # The kernel limits the memory that one user's pipes take (pipe(7)).  The default size works, too.
        with contextlib.suppress(OSError):
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        return read, write

    def return_pipe(self, read: int, write: int, *, clean: bool) -> None:
        """Take a pipe back; `clean` means that it is empty."""
        if clean and len(self._pipes) < _SPARE_PIPES_MAX:
            self._pipes.append((read, write))
        else:
            os.close(read)
            os.close(write)

    def close(self) -> None:
        """Close all pipes.  Call this when no pair is left."""
        for pipe in self._pipes:
            for end in pipe:
                os.close(end)
        self._pipes.clear()


class _Direction:
    """One direction of a pair: it reads from `source` and writes to `sink` (both borrowed) until it has ended.

    It watches `source` for data, or if something waits to be written, `sink` for room.  `ended` then has no result or an OSError.
    """

    def __init__(self, relay: Relay, source: socket.socket, sink: socket.socket, count: Count) -> None:
        self._relay = relay
        self._count = count
        self._source = source
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._is_large = False
        # What waits to be written: bytes, or the pipe with the number of bytes in it.
        self._data = memoryview(b"")
        self._pipe: tuple[int, int] | None = None
        self._in_pipe = 0
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(source.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        try:
            for _ in range(_PIECES_IN_A_ROW):
                count = self._splice() if self._is_large else self._copy()
                if count is None:
                    return
                self._is_large = count >= _LARGE
                if not self._is_large:
                    return
        except OSError as error:
            self._fail(error)

    def _copy(self) -> int | None:
        """Copy a piece.  Returns how many bytes it has, or None if there can be no further piece now."""
        try:
            data = self._source.recv(_LARGE)
        except BlockingIOError:
            return None
        if not data:
            self._end()
            return None
        self._count.bytes += len(data)
        try:
            sent = self._sink.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._data = memoryview(data)[sent:]
            self._await_room()
            return None
        return len(data)

    def _splice(self) -> int | None:
        """Move a piece through a pipe, as `_copy` does.  Returns 0 at the end, and at a byte that was sent as urgent."""
        try:
            self._pipe = self._relay.take_pipe()
        except OSError:
            # No descriptors are left, most likely.  Copying takes none.
            return self._copy()
        try:
            self._in_pipe = count = os.splice(self._source.fileno(), self._pipe[1], _PIPE_SIZE, flags=_FLAGS)
        except BlockingIOError:
            count = 0
        self._count.bytes += count
        if not self._write():
            self._await_room()
            return None
        return count

    def _write(self) -> bool:
        """Write what waits, and return whether all of it is gone."""
        try:
            while self._data:
                self._data = self._data[self._sink.send(self._data) :]
            while self._pipe is not None and self._in_pipe:
                self._in_pipe -= os.splice(self._pipe[0], self._sink.fileno(), self._in_pipe, flags=_FLAGS)
        except BlockingIOError:
            return False
        self._release()
        return True

    def _await_room(self) -> None:
        self._loop.remove_reader(self._source.fileno())
        self._loop.add_writer(self._sink.fileno(), self._on_writable)

    def _on_writable(self) -> None:
        try:
            if self._write():
                self._loop.remove_writer(self._sink.fileno())
                self._loop.add_reader(self._source.fileno(), self._on_readable)
        except OSError as error:
            self._fail(error)

    def _end(self) -> None:
        self.close()
        with contextlib.suppress(OSError):
            self._sink.shutdown(socket.SHUT_WR)
        if not self.ended.done():
            self.ended.set_result(None)

    def _fail(self, error: OSError) -> None:
        self.close()
        if not self.ended.done():
            self.ended.set_exception(error)

    def _release(self) -> None:
        if self._pipe is not None:
            self._relay.return_pipe(*self._pipe, clean=not self._in_pipe)
            self._pipe, self._in_pipe = None, 0

    def close(self) -> None:
        """Stop, and give back the pipe.  Doing this twice does nothing.  The sockets must still be open."""
        self._loop.remove_reader(self._source.fileno())
        self._loop.remove_writer(self._sink.fileno())
        self._release()


def reset(sock: socket.socket) -> None:
    """Make a later close of `sock` (borrowed) reset the connection instead of ending it in order."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
