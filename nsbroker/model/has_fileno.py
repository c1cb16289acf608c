"""The protocol of objects that have a file descriptor."""

from typing import Protocol


class HasFileno(Protocol):
    """A file, a socket, or another object with a descriptor."""

    def fileno(self) -> int:
        """Return the descriptor, which the object still owns."""
