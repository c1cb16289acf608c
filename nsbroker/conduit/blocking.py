"""The blocking conduit."""

import os
import socket
from typing import IO, Any, Self

from nsbroker.conduit import core
from nsbroker.linux import ancillary


class Conduit:
    """Carries one descriptor at a time over `sock`, which it takes and closes.

    `sock` is a connected AF_UNIX socket of any type.  Sending closes the original, but only once it
    went; whatever is refused on receipt is closed.  Everything received is close-on-exec.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Raises UnusableTransport, and then leaves `sock` to the caller."""
        self._sock = core.check_transport(sock)

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        """Two that are connected to each other."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(left), cls(right)

    def transfer_fd(self, fd: int) -> None:
        """Send `fd`, then close it.  Raises TransferFailed, and then `fd` is still open and the caller's."""
        self._send(fd, "descriptor")
        os.close(fd)

    def transfer_file(self, file: IO[Any]) -> None:
        """Flush and send `file`, then close it.  Raises TransferFailed, and then `file` is still open and the caller's."""
        try:
            file.flush()
            fd = file.fileno()
        except (OSError, ValueError) as error:
            raise core.transfer_failed("file", error) from error
        self._send(fd, "file")
        file.close()

    def transfer_socket(self, sock: socket.socket) -> None:
        """Send `sock`, then close it.  Raises TransferFailed, and then `sock` is still open and the caller's."""
        self._send(sock.fileno(), "socket")
        sock.close()

    def receive_fd(self) -> int:
        """The descriptor (the caller's) that comes next.

        Raises ConduitClosed, NoDescriptor, SeveralDescriptors, ForeignControlMessage, DescriptorsLost.
        """
        return core.read_message(*self._receive())

    def receive_file(self, mode: str = "rb") -> IO[Any]:
        """The file that comes next, opened with `mode`.  As `receive_fd`; WrongDescriptor for a folder."""
        return core.as_file(self.receive_fd(), mode)

    def receive_socket(self) -> socket.socket:
        """The socket that comes next; it knows its family, type and protocol.  As `receive_fd`; WrongDescriptor."""
        return core.as_socket(self.receive_fd())

    def _send(self, fd: int, what: str) -> None:
        try:
            ancillary.send(self._sock, core.PAYLOAD, [fd])
        except (OSError, ValueError) as error:
            raise core.transfer_failed(what, error) from error

    def _receive(self) -> tuple[bytes, ancillary.Ancillary, int]:
        return core.receive(self._sock)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._sock.fileno() < 0

    def close(self) -> None:
        """Close the socket.  Twice is harmless."""
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
