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
    """Collects pieces until they make messages.  Owns the fds of all that was not yet given out.

    Lists of fds are handed on as they are, never copied: a number is owned as long as it is in its list.
    """

    __slots__ = ("_fault", "_fds", "_frames", "_part")

    def __init__(self) -> None:
        self._part = b""
        self._fds: list[int] = []
        self._frames: deque[Frame] = deque()
        self._fault: str | None = None

    @property
    def started(self) -> bool:
        """Whether a message has begun and not ended."""
        return bool(self._part)

    @property
    def ready(self) -> bool:
        """Whether `next_frame` has something to give out or to raise."""
        return bool(self._frames) or self._fault is not None

    def feed(self, data: bytes, fds: list[int]) -> None:
        """Take a piece, with `fds` that came on its first byte."""
        if self._fault or (fds and self._part):
            close_and_clear(fds)
            self._fault = self._fault or "file descriptors came in the middle of a message"
            return
        if data.find(END) == len(data) - 1 and not self._part and len(data) <= MESSAGE_MAX + 1:
            self._frames.append(Frame(data[:-1], fds))
            return
        self._fds = self._fds or fds
        *whole, self._part = (self._part + data).split(END)
        for message in whole:
            if len(message) > MESSAGE_MAX:
                break
            self._frames.append(Frame(message, self._fds))
            self._fds = []
        else:
            if len(self._part) <= MESSAGE_MAX:
                return
        self._fault = f"a message is longer than {MESSAGE_MAX} bytes"

    def next_frame(self) -> Frame | None:
        """The next whole message.  Raises ProtocolError once all that came before a fault was given out."""
        if self._frames:
            return self._frames.popleft()
        if self._fault:
            raise ProtocolError(self._fault)
        return None

    def close(self) -> None:
        """Close all fds that were not given out."""
        while self._frames:
            close_and_clear(self._frames[0].fds)
            self._frames.popleft()
        close_and_clear(self._fds)
        self._part = b""
