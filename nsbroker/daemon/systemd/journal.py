"""Send entries to systemd-journald with its native protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL.

systemd-python's sendv() blocks when journald's queue is full.  Here this is an error at once, because entries are sent on the
event loop that serves all clients.
"""

import socket
import struct
from collections.abc import Sequence
from pathlib import Path

PLACE = Path("/run/systemd/journal/socket")
_SEND_BUFFER = 1 << 20


class Journal:
    """A client of journald.  Owns a socket, which is connected when the first entry is sent; close it."""

    def __init__(self) -> None:
        self._sock = _make_socket()
        self._connected = False

    def fileno(self) -> int:
        """The socket's descriptor (borrowed)."""
        return self._sock.fileno()

    def send(self, fields: Sequence[tuple[str, str]]) -> None:
        """Send one entry.

        Raises BlockingIOError when journald's queue is full, OSError when there is no journald.
        """
        entry = _encode(fields)
        try:
            self._send(entry)
        except (ConnectionRefusedError, ConnectionResetError):
            # journald may have restarted, with a new socket at the same path: connect again.
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
    # This makes room for many entries while journald is busy.  The kernel may grant less.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    return sock


def _encode(fields: Sequence[tuple[str, str]]) -> bytes:
    text = "".join([f"{name}={value}\n" for name, value in fields])
    if text.count("\n") == len(fields):
        return text.encode(errors="backslashreplace")
    return b"".join(_encode_field(name, value.encode(errors="backslashreplace")) for name, value in fields)


def _encode_field(name: str, value: bytes) -> bytes:
    # A line break ends a field, so a value that contains one is sent with its length instead.
    if b"\n" in value:
        return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(value)), value)
    return b"%s=%s\n" % (name.encode(), value)
