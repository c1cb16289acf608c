"""Relay bytes between two connected sockets, in both directions, with splice(2): the bytes stay in the kernel.

Bytes that the receiving socket has no room for wait in a pipe.  Until they are gone, nothing more is read (backpressure).
When one direction ends, only that direction is closed (half-close).  When one connection breaks, or the relay is cancelled,
the other connection is reset as well.
"""

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Callable

_PIPE_SIZE = 256 * 1024
_READ_SIZE = 65536
# The number of unused pipes that are kept for later connections.  All others are closed.
_SPARE_PIPES_MAX = 32
# After this number of moves without waiting, other connections get a turn on the event loop.
_MOVES_IN_A_ROW = 16
_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_LINGER_ZERO = struct.pack("ii", 1, 0)


class Relay:
    """Relays bytes between any number of pairs of sockets.

    It owns the pipes, and the pairs share them: a direction needs a pipe only while bytes are moving.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pipes: list[tuple[int, int]] = []

    async def run(self, left: socket.socket, right: socket.socket) -> None:
        """Relay until both directions have ended.  Takes both sockets, which must be TCP and non-blocking."""
        directions = [asyncio.ensure_future(self._move(left, right)), asyncio.ensure_future(self._move(right, left))]
        try:
            for sock in (left, right):
                # Pass on each piece at once, as its sender wrote it: do not collect small writes (Nagle's algorithm).
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # Relay urgent bytes like all others.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            await asyncio.gather(*directions)
        except BaseException as error:
            # A reset tells the peers that the connection broke.  A normal close would look like the end of the data.
            reset(left)
            reset(right)
            if not isinstance(error, OSError):
                raise
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            left.close()
            right.close()

    async def _move(self, source: socket.socket, sink: socket.socket) -> None:
        await self._wait_until_ready(source, self._loop.add_reader, self._loop.remove_reader)
        read, write = self._take_pipe()
        rest = 0
        try:
            moves = 0
            while True:
                try:
                    rest = os.splice(source.fileno(), write, _PIPE_SIZE, flags=_FLAGS)
                except BlockingIOError:
                    rest = 0
                if not rest:
                    left = await self._copy(source, sink)
                    if left == 0:
                        break
                    if left is None:
                        self._return_pipe(read, write, clean=True)
                        read = write = -1
                        await self._wait_until_ready(source, self._loop.add_reader, self._loop.remove_reader)
                        read, write = self._take_pipe()
                    continue
                while rest:
                    try:
                        rest -= os.splice(read, sink.fileno(), rest, flags=_FLAGS)
                    except BlockingIOError:
                        await self._wait_until_ready(sink, self._loop.add_writer, self._loop.remove_writer)
                moves += 1
                if moves % _MOVES_IN_A_ROW == 0:
                    await asyncio.sleep(0)
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
        finally:
            if read >= 0:
                self._return_pipe(read, write, clean=not rest)

    async def _copy(self, source: socket.socket, sink: socket.socket) -> int | None:
        """Copy bytes through this process, because splice(2) stops at a byte that was sent as urgent.

        Returns how many bytes were copied, 0 at the end of the data, None when nothing has arrived yet.
        """
        try:
            data = source.recv(_READ_SIZE)
        except BlockingIOError:
            return None
        await self._loop.sock_sendall(sink, data)
        return len(data)

    async def _wait_until_ready(self, sock: socket.socket, add: Callable[..., object], remove: Callable[[int], object]) -> None:
        ready = self._loop.create_future()
        number = sock.fileno()
        add(number, _wake, ready)
        try:
            await ready
        finally:
            remove(number)

    def _take_pipe(self) -> tuple[int, int]:
        if self._pipes:
            return self._pipes.pop()
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # The kernel limits the memory that one user's pipes take (pipe(7)).  The default size works, too.
        with contextlib.suppress(OSError):
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        return read, write

    def _return_pipe(self, read: int, write: int, *, clean: bool) -> None:
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


def reset(sock: socket.socket) -> None:
    """Make a later close of `sock` (borrowed) reset the connection instead of ending it in order."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)


def _wake(ready: "asyncio.Future[None]") -> None:
    # The event loop may call this once more before the descriptor is removed from it.
    if not ready.done():
        ready.set_result(None)
