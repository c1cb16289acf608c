"""Sending entries to systemd-journald, by its native protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL.

systemd-python's sendv() waits when the journal takes nothing; here that is an error at once, since whoever waits is the
event loop of all clients.
"""

import socket
import struct
from collections.abc import Iterable
from pathlib import Path

PLACE = Path("/run/systemd/journal/socket")
_SEND_BUFFER = 1 << 20


class Journal:
    """A way to the journal.  Owns a socket, which is connected when the first entry is sent; close it."""

    def __init__(self) -> None:
        self._sock = _make_socket()
        self._connected = False

    def fileno(self) -> int:
        """The socket's descriptor (borrowed)."""
        return self._sock.fileno()

    def send(self, fields: Iterable[tuple[str, str]]) -> None:
        """Send one entry.

        Raises BlockingIOError when journald's queue is full, OSError when there is no journald.
        """
        entry = b"".join(_encode(name, value.encode(errors="backslashreplace")) for name, value in fields)
        try:
            self._send(entry)
        except (ConnectionRefusedError, ConnectionResetError):
            # Another socket may be at the same path by now.
            self._connected = False
            self._send(entry)

    def _send(self, entry: bytes) -> None:
        if not self._connected:
            self._sock.connect(str(PLACE))
            self._connected = True
        self._sock.send(entry)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


def _make_socket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    # Room for many entries while journald is busy; the kernel may give less.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    return sock


def _encode(name: str, value: bytes) -> bytes:
    # A line ends a field, so what has one in it goes by its length.
    if b"\n" in value:
        return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(value)), value)
    return b"%s=%s\n" % (name.encode(), value)
