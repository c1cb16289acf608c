"""The blocking conduit."""

import os
import socket
from typing import IO, Any

from nsbroker.conduit import core


class Conduit(core.ConduitBase):
    """Sends and receives one descriptor at a time over a connected AF_UNIX socket of any type, which it takes.

    Sending closes the original, but only after it was sent.  A received descriptor that is refused is closed.  Everything
    received is close-on-exec.  If the socket has a timeout, sending can raise TransferFailed, and receiving TimeoutError.
    """

    def transfer_fd(self, fd: int) -> None:
        """Send `fd`, then close it.

        After TransferFailed or ConduitClosed, `fd` is unchanged and still the caller's.  After CloseFailed it was sent, and is
        closed here, too (close(2)).
        """
        self._send(fd, "descriptor")
        core.close_sent(lambda: os.close(fd), "descriptor")

    def transfer_file(self, file: IO[Any]) -> None:
        """Flush and send `file`, then close it.  Errors are as in `transfer_fd`."""
        self._send(core.flush(file), "file")
        core.close_sent(file.close, "file")

    def transfer_socket(self, sock: socket.socket) -> None:
        """Send `sock`, then close it.  Errors are as in `transfer_fd`."""
        self._send(sock.fileno(), "socket")
        core.close_sent(sock.close, "socket")

    def receive_fd(self) -> int:
        """Receive the next descriptor (the caller's).

        Raises ConduitClosed, NoDescriptor, SeveralDescriptors, ForeignControlMessage, DescriptorsLost, OSError.
        """
        return self._receive()

    def receive_file(self, mode: str = "rb") -> IO[Any]:
        """Receive the next descriptor as a file object with `mode`.

        Its `name` is what the kernel of this host calls the file, such as /tmp/log, pipe:[4711] or "/tmp/log (deleted)"
        (proc_pid_fd(5)).  It is for messages: another file can have that path here.  Raises as `receive_fd` does, and
        WrongDescriptor for a folder.
        """
        return core.as_file(self.receive_fd(), mode)

    def receive_socket(self) -> socket.socket:
        """Receive the next descriptor as a socket object, which has its family, type and protocol from the kernel.

        Raises as `receive_fd` does, and WrongDescriptor when it is not a socket.
        """
        return core.as_socket(self.receive_fd())

    def _send(self, fd: int, what: str) -> None:
        self._check_open()
        try:
            core.send(self._sock, fd, what)
        except BlockingIOError as error:
            raise core.transfer_failed(what, error) from error

    def _receive(self) -> int:
        self._check_open()
        return core.receive(self._sock)
