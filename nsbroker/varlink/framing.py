"""Cutting a stream of bytes into messages: each is JSON and one NUL, and carries the fds that came with its first byte."""

from collections import deque
from typing import NamedTuple

from nsbroker.errors import ProtocolError
from nsbroker.linux.ancillary import close_and_clear

MESSAGE_MAX = 64 * 1024
"""The longest message in bytes, its NUL not counted."""
END = b"\0"


class Frame(NamedTuple):
    """One message as it came.  Whoever holds the frame owns `fds`."""

    data: bytes
    fds: list[int]


class Inbox:
    """Collects pieces until they make messages, which are cut off one by one, as they are asked for: a piece can hold
    thousands.  Owns the fds of all that was not yet given out.

    Lists of fds are handed on as they are, never copied: a number is owned as long as it is in its list.
    """

    __slots__ = ("_at", "_base", "_data", "_fault", "_fds", "_last_end")

    def __init__(self) -> None:
        # What was given out ends before `_at`; `_last_end` is where the last whole message ends, -1 without any.
        self._data = b""
        self._at = 0
        self._last_end = -1
        # Where the messages to which fds belong begin, counted from the beginning of the stream, as is the first of `_data`.
        self._base = 0
        self._fds: deque[tuple[int, list[int]]] = deque()
        self._fault: str | None = None

    @property
    def started(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._last_end + 1 < len(self._data)

    @property
    def ready(self) -> bool:
        """Whether `next_frame` has something to give out or to raise."""
        return self._at <= self._last_end or self._fault is not None or self._is_too_long(len(self._data))

    def feed(self, data: bytes, fds: list[int]) -> None:
        """Take a piece, with `fds` that came on its first byte."""
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
        """The next whole message.  Raises ProtocolError once all that came before a fault was given out."""
        whole = self._at <= self._last_end
        end = self._data.find(END, self._at) if whole else len(self._data)
        if self._is_too_long(end):
            self._fault = self._fault or f"a message is longer than {MESSAGE_MAX} bytes"
        elif whole:
            message, begun = self._data[self._at : end], self._base + self._at
            self._at = end + 1
            if self._at == len(self._data):
                self._base += self._at
                self._data, self._at, self._last_end = b"", 0, -1
            if not self._fds or self._fds[0][0] != begun:
                return Frame(message, [])
            frame = Frame(message, self._fds[0][1])
            self._fds.popleft()
            return frame
        if self._fault:
            raise ProtocolError(self._fault)
        return None

    def _is_too_long(self, end: int) -> bool:
        """Whether the message that is next, and ends at `end` or not yet, is."""
        return end - self._at > MESSAGE_MAX

    def close(self) -> None:
        """Close all fds that were not given out."""
        for _, fds in self._fds:
            close_and_clear(fds)
        self._fds.clear()
        self._data, self._at, self._last_end = b"", 0, -1
