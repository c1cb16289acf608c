"""The blocking conduit."""

import os
import socket
from typing import IO, Any

from nsbroker.conduit import core
from nsbroker.linux import ancillary


class Conduit(core.ConduitBase):
    """Carries one descriptor at a time over a connected AF_UNIX socket of any type, which it takes and closes.

    Sending closes the original, but only once it went; whatever is refused on receipt is closed.  Everything received is
    close-on-exec.  A timeout of the socket's makes sending fail (TransferFailed) and receiving raise TimeoutError.
    """

    def transfer_fd(self, fd: int) -> None:
        """Send `fd`, then close it.  Raises TransferFailed, ConduitClosed, and then `fd` is as it was and the caller's."""
        self._send(fd, "descriptor")
        os.close(fd)

    def transfer_file(self, file: IO[Any]) -> None:
        """Flush and send `file`, then close it.  As `transfer_fd`."""
        self._send(core.flushed(file), "file")
        file.close()

    def transfer_socket(self, sock: socket.socket) -> None:
        """Send `sock`, then close it.  As `transfer_fd`."""
        self._send(sock.fileno(), "socket")
        sock.close()

    def receive_fd(self) -> int:
        """The descriptor (the caller's) that comes next.

        Raises ConduitClosed, NoDescriptor, SeveralDescriptors, ForeignControlMessage, DescriptorsLost, OSError.
        """
        return core.read_message(*self._receive())

    def receive_file(self, mode: str = "rb") -> IO[Any]:
        """The file that comes next, opened with `mode`.  As `receive_fd`; WrongDescriptor for a folder."""
        return core.as_file(self.receive_fd(), mode)

    def receive_socket(self) -> socket.socket:
        """The socket that comes next; it knows its family, type and protocol.  As `receive_fd`; WrongDescriptor."""
        return core.as_socket(self.receive_fd())

    def _send(self, fd: int, what: str) -> None:
        self._see_open()
        try:
            core.send(self._sock, fd, what)
        except BlockingIOError as error:
            raise core.transfer_failed(what, error) from error

    def _receive(self) -> tuple[bytes, ancillary.Ancillary, int]:
        self._see_open()
        return core.receive(self._sock)
