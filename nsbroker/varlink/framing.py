"""Splitting a stream of bytes into messages.

A message is JSON, followed by one NUL byte.  The fds that came with its first byte belong to it.
"""

from msgspec import Struct

from nsbroker.errors import ProtocolError
from nsbroker.linux.descriptors import close_and_clear

MESSAGE_MAX = 64 * 1024
"""The maximum length of a message in bytes, without its NUL."""
END = b"\0"


class Frame(Struct):
    """The bytes and fds of one message, not decoded yet.  The holder of the frame owns `fds`."""

    data: bytes
    fds: list[int]


class Inbox:
    """Collects pieces of a stream and returns complete messages, one at a time, because one piece can contain thousands.

    It owns the fds of all messages that were not returned yet.  Lists of fds are passed on, never copied: whoever has the
    list owns the fds in it.
    """

    __slots__ = ("_at", "_base", "_data", "_fault", "_fds", "_last_end")

    def __init__(self) -> None:
        # Messages before the offset `_at` were returned already.  `_last_end` is the offset of the last NUL, -1 without any.
        self._data = b""
        self._at = 0
        self._last_end = -1
        # The offset in the stream of the first byte of `_data`.  Each list of fds is stored with the offset of its message.
        self._base = 0
        self._fds: list[tuple[int, list[int]]] = []
        self._fault: str | None = None

    @property
    def started(self) -> bool:
        """Whether a message has started to arrive and is not complete."""
        return self._last_end + 1 < len(self._data)

    @property
    def ready(self) -> bool:
        """Whether `next_frame` will return a message or raise an error."""
        return self._at <= self._last_end or self._fault is not None or len(self._data) - self._at > MESSAGE_MAX

    def feed(self, data: bytes, fds: list[int]) -> None:
        """Add a piece of the stream, with the `fds` (taken) that came with its first byte."""
        if self._fault or (fds and self.started):
            close_and_clear(fds)
            self._fault = self._fault or "file descriptors came in the middle of a message"
            return
        if fds:
            self._fds.append((self._base + len(self._data), fds))
        self._base += self._at
        self._data, self._at = self._data[self._at :] + data, 0
        self._last_end = self._data.rfind(END)

    def next_frame(self) -> Frame | None:
        """Return the next complete message, or None when there is none.

        Raises ProtocolError when the peer broke the protocol, after all messages before the fault were returned.
        """
        complete = self._at <= self._last_end
        end = self._data.find(END, self._at) if complete else len(self._data)
        if end - self._at > MESSAGE_MAX:
            # The message ends at `end`, or after `end` if it is incomplete.
            self._fault = self._fault or f"a message is longer than {MESSAGE_MAX} bytes"
        elif complete:
            message, start = self._data[self._at : end], self._base + self._at
            self._at = end + 1
            if self._at == len(self._data):
                self._base += self._at
                self._data, self._at, self._last_end = b"", 0, -1
            if not self._fds or self._fds[0][0] != start:
                return Frame(message, [])
            frame = Frame(message, self._fds[0][1])
            del self._fds[0]
            return frame
        if self._fault:
            raise ProtocolError(self._fault)
        return None

    def close(self) -> None:
        """Close all fds that were not returned."""
        for _, fds in self._fds:
            close_and_clear(fds)
        self._fds.clear()
        self._data, self._at, self._last_end = b"", 0, -1
