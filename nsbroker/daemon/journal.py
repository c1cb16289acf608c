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
    """A way to the journal.  Owns a socket, which lasts as long as the process."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        # Room for many entries while journald is busy; the kernel may give less.
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)

    def send(self, fields: Iterable[tuple[str, str]]) -> None:
        """Send one entry.  Raises OSError when it is not taken now: BlockingIOError by a journald that does not read."""
        self._sock.sendto(b"".join(_encode(name, value.encode(errors="backslashreplace")) for name, value in fields), str(PLACE))

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


def _encode(name: str, value: bytes) -> bytes:
    # A line ends a field, so what has one in it goes by its length.
    if b"\n" in value:
        return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(value)), value)
    return b"%s=%s\n" % (name.encode(), value)
