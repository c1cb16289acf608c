"""The trio conduit."""

import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from typing import IO, Any

import trio

from nsbroker.conduit import core
from nsbroker.errors import ConduitClosed
from nsbroker.linux import ancillary


class Conduit(core.ConduitBase):
    """Carries one descriptor at a time over a connected AF_UNIX socket of any type, which it takes and closes.

    Sending closes the original, but only once it went; whatever is refused on receipt is closed.  Everything received is
    close-on-exec.  The socket is made non-blocking.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Takes `sock`, unless this raises UnusableTransport."""
        super().__init__(sock)
        self._sock.setblocking(False)

    async def transfer_fd(self, fd: int) -> None:
        """Send `fd`, then close it.  Raises TransferFailed, ConduitClosed, and then `fd` is as it was and the caller's."""
        await self._send(fd, "descriptor")
        os.close(fd)

    async def transfer_file(self, file: IO[Any]) -> None:
        """Flush and send `file`, then close it.  As `transfer_fd`."""
        await self._send(core.flushed(file), "file")
        file.close()

    async def transfer_socket(self, sock: socket.socket) -> None:
        """Send `sock`, then close it.  As `transfer_fd`."""
        await self._send(sock.fileno(), "socket")
        sock.close()

    async def receive_fd(self) -> int:
        """The descriptor (the caller's) that comes next.

        Raises ConduitClosed, NoDescriptor, SeveralDescriptors, ForeignControlMessage, DescriptorsLost, OSError.
        """
        return core.read_message(*await self._receive())

    async def receive_file(self, mode: str = "rb") -> IO[Any]:
        """The file that comes next, opened with `mode`.  As `receive_fd`; WrongDescriptor for a folder."""
        return core.as_file(await self.receive_fd(), mode)

    async def receive_socket(self) -> socket.socket:
        """The socket that comes next; it knows its family, type and protocol.  As `receive_fd`; WrongDescriptor."""
        return core.as_socket(await self.receive_fd())

    def close(self) -> None:
        """Close the socket.  Twice is harmless; tasks that wait on it get ConduitClosed."""
        if not self.closed:
            with contextlib.suppress(RuntimeError):  # outside of a loop nobody waits
                trio.lowlevel.notify_closing(self._sock)
        super().close()

    async def _send(self, fd: int, what: str) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            self._see_open()
            try:
                return core.send(self._sock, fd, what)
            except BlockingIOError:
                await self._ready(trio.lowlevel.wait_writable)

    async def _receive(self) -> tuple[bytes, ancillary.Ancillary, int]:
        while True:
            self._see_open()
            await self._ready(trio.lowlevel.wait_readable)
            try:
                return core.receive(self._sock)
            except BlockingIOError:
                continue

    async def _ready(self, wait: Callable[[socket.socket], Awaitable[None]]) -> None:
        try:
            await wait(self._sock)
        except trio.ClosedResourceError as error:
            raise ConduitClosed("this conduit was closed meanwhile") from error
