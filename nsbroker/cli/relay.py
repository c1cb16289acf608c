"""Bytes between two connected sockets, both ways, moved by the kernel: splice(2) copies none of them through here.

What has been read and finds no room waits in a pipe; nothing more is read until it has gone (backpressure).  The end of
one direction is passed on alone (half-close); a connection that breaks, or is broken off here, breaks the other.
"""

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Callable

_PIPE = 256 * 1024
_SOME = 65536
# Pipes for later; a crowd's are closed when it has gone.
_KEPT = 32
# After so many moves in one go, other connections get their turn.
_IN_A_ROW = 16
_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_RESET = struct.pack("ii", 1, 0)


class Relay:
    """Relays between any number of pairs.  It owns pipes, which the pairs share: only bytes on their way need one."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pipes: list[tuple[int, int]] = []

    async def run(self, left: socket.socket, right: socket.socket) -> None:
        """Relay until both directions have ended.  Takes both sockets, TCP and non-blocking."""
        ways = [asyncio.ensure_future(self._move(left, right)), asyncio.ensure_future(self._move(right, left))]
        try:
            for sock in (left, right):
                # Whoever wrote has decided what goes at once.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # An urgent byte is one like others.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            await asyncio.gather(*ways)
        except BaseException as error:
            # Whoever is at the other end shall learn that it broke, not take it for the end.
            reset(left)
            reset(right)
            if not isinstance(error, OSError):
                raise
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            left.close()
            right.close()

    async def _move(self, source: socket.socket, sink: socket.socket) -> None:
        await self._until(source, self._loop.add_reader, self._loop.remove_reader)
        read, write = self._take_pipe()
        rest = 0
        try:
            served = 0
            while True:
                try:
                    rest = os.splice(source.fileno(), write, _PIPE, flags=_FLAGS)
                except BlockingIOError:
                    rest = 0
                if not rest:
                    left = await self._carry(source, sink)
                    if left == 0:
                        break
                    if left is None:
                        self._give_back(read, write, clean=True)
                        read = write = -1
                        await self._until(source, self._loop.add_reader, self._loop.remove_reader)
                        read, write = self._take_pipe()
                    continue
                while rest:
                    try:
                        rest -= os.splice(read, sink.fileno(), rest, flags=_FLAGS)
                    except BlockingIOError:
                        await self._until(sink, self._loop.add_writer, self._loop.remove_writer)
                served += 1
                if served % _IN_A_ROW == 0:
                    await asyncio.sleep(0)
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
        finally:
            if read >= 0:
                self._give_back(read, write, clean=not rest)

    async def _carry(self, source: socket.socket, sink: socket.socket) -> int | None:
        """Move by hand what splice(2) leaves: it stops at a byte that was sent as urgent.  How much; 0 at the end, None when
        nothing is there yet.
        """
        try:
            data = source.recv(_SOME)
        except BlockingIOError:
            return None
        await self._loop.sock_sendall(sink, data)
        return len(data)

    async def _until(self, sock: socket.socket, add: Callable[..., object], remove: Callable[[int], object]) -> None:
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
        # A user has only so much room for pipes; a smaller one does as well.
        with contextlib.suppress(OSError):
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE)
        return read, write

    def _give_back(self, read: int, write: int, *, clean: bool) -> None:
        if clean and len(self._pipes) < _KEPT:
            self._pipes.append((read, write))
        else:
            os.close(read)
            os.close(write)

    def close(self) -> None:
        """Close the pipes, once no pair is left."""
        for pipe in self._pipes:
            for end in pipe:
                os.close(end)
        self._pipes.clear()


def reset(sock: socket.socket) -> None:
    """Let closing `sock` (borrowed) break the connection instead of ending it."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def _wake(ready: "asyncio.Future[None]") -> None:
    # The loop may call once more before the descriptor is taken away from it.
    if not ready.done():
        ready.set_result(None)
