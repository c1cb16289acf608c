"""The common base of the trio and asyncio conduits: subclasses wait for the socket."""

import os
import socket
from abc import ABC, abstractmethod
from typing import IO, Any

from nsbroker.conduit import core


class AsyncConduit(core.ConduitBase, ABC):
    """Sends and receives one descriptor at a time over a connected AF_UNIX socket of any type, which it takes.

    Sending closes the original, but only after it was sent.  A received descriptor that is refused is closed.  Everything
    received is close-on-exec.  The socket may be blocking or not; that stays as it is.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Take `sock`; after UnusableTransport it is still the caller's."""
        super().__init__(sock)
        if sock.gettimeout() is not None:
            # With a timeout, Python itself would wait for the socket, and with it the event loop.
            sock.setblocking(False)

    async def transfer_fd(self, fd: int) -> None:
        """Send `fd`, then close it.

        After TransferFailed or ConduitClosed, `fd` is unchanged and still the caller's.  After CloseFailed it was sent, and is
        closed here, too (close(2)).
        """
        await self._send(fd, "descriptor")
        core.close_sent(lambda: os.close(fd), "descriptor")

    async def transfer_file(self, file: IO[Any]) -> None:
        """Flush and send `file`, then close it.  Errors are as in `transfer_fd`."""
        await self._send(core.flush(file), "file")
        core.close_sent(file.close, "file")

    async def transfer_socket(self, sock: socket.socket) -> None:
        """Send `sock`, then close it.  Errors are as in `transfer_fd`."""
        await self._send(sock.fileno(), "socket")
        core.close_sent(sock.close, "socket")

    async def receive_fd(self) -> int:
        """Receive the next descriptor (the caller's).

        Raises ConduitClosed, NoDescriptor, SeveralDescriptors, ForeignControlMessage, DescriptorsLost, OSError.
        """
        return await self._receive()

    async def receive_file(self, mode: str = "rb") -> IO[Any]:
        """Receive the next descriptor as a file object with `mode`.

        Its `name` is what the kernel of this host calls the file, such as /tmp/log, pipe:[4711] or "/tmp/log (deleted)"
        (proc_pid_fd(5)).  It is for messages: another file can have that path here.  Raises as `receive_fd` does, and
        WrongDescriptor for a folder.
        """
        return core.as_file(await self.receive_fd(), mode)

    async def receive_socket(self) -> socket.socket:
        """Receive the next descriptor as a socket object, which has its family, type and protocol from the kernel.

        Raises as `receive_fd` does, and WrongDescriptor when it is not a socket.
        """
        return core.as_socket(await self.receive_fd())

    async def _send(self, fd: int, what: str) -> None:
        while True:
            self._check_open()
            try:
                return core.send(self._sock, fd, what, socket.MSG_DONTWAIT)
            except BlockingIOError:
                await self._wait_writable()

    async def _receive(self) -> int:
        while True:
            self._check_open()
            await self._wait_readable()
            try:
                return core.receive(self._sock, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue

    @abstractmethod
    async def _wait_readable(self) -> None:
        """Wait until the socket is readable.  Raises ConduitClosed when the conduit is closed meanwhile."""

    @abstractmethod
    async def _wait_writable(self) -> None:
        """Wait until the socket is writable.  Raises ConduitClosed when the conduit is closed meanwhile."""
