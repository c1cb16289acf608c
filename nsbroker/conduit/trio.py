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
    """Sends and receives one descriptor at a time over a connected AF_UNIX socket of any type, which it takes.

    Sending closes the original, but only after it was sent.  A received descriptor that is refused is closed.  Everything
    received is close-on-exec.  The socket is made non-blocking.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Take `sock`; after UnusableTransport it is still the caller's."""
        super().__init__(sock)
        self._sock.setblocking(False)

    async def transfer_fd(self, fd: int) -> None:
        """Send `fd`, then close it.  After TransferFailed or ConduitClosed, `fd` is unchanged and still the caller's."""
        await self._send(fd, "descriptor")
        os.close(fd)

    async def transfer_file(self, file: IO[Any]) -> None:
        """Flush and send `file`, then close it.  Errors are as in `transfer_fd`."""
        await self._send(core.flush(file), "file")
        file.close()

    async def transfer_socket(self, sock: socket.socket) -> None:
        """Send `sock`, then close it.  Errors are as in `transfer_fd`."""
        await self._send(sock.fileno(), "socket")
        sock.close()

    async def receive_fd(self) -> int:
        """Receive the next descriptor (the caller's).

        Raises ConduitClosed, NoDescriptor, SeveralDescriptors, ForeignControlMessage, DescriptorsLost, OSError.
        """
        return core.read_message(*await self._receive())

    async def receive_file(self, mode: str = "rb") -> IO[Any]:
        """Receive the next descriptor as a file object with `mode`.

        Raises as `receive_fd` does, and WrongDescriptor for a folder.
        """
        return core.as_file(await self.receive_fd(), mode)

    async def receive_socket(self) -> socket.socket:
        """Receive the next descriptor as a socket object, which has its family, type and protocol from the kernel.

        Raises as `receive_fd` does, and WrongDescriptor when it is not a socket.
        """
        return core.as_socket(await self.receive_fd())

    def close(self) -> None:
        """Close the socket.  Closing twice is harmless.  Tasks that wait on it get ConduitClosed."""
        if not self.closed:
            with contextlib.suppress(RuntimeError):  # Outside of trio.run(), no task waits.
                trio.lowlevel.notify_closing(self._sock)
        super().close()

    async def _send(self, fd: int, what: str) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            self._check_open()
            try:
                return core.send(self._sock, fd, what)
            except BlockingIOError:
                await self._wait(trio.lowlevel.wait_writable)

    async def _receive(self) -> tuple[bytes, ancillary.Ancillary, int]:
        while True:
            self._check_open()
            await self._wait(trio.lowlevel.wait_readable)
            try:
                return core.receive(self._sock)
            except BlockingIOError:
                continue

    async def _wait(self, wait: Callable[[socket.socket], Awaitable[None]]) -> None:
        try:
            await wait(self._sock)
        except trio.ClosedResourceError as error:
            raise ConduitClosed("this conduit was closed meanwhile") from error
