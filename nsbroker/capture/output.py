"""Where a capture is written: a file, a pipe or a terminal's redirection, which always ends with a whole block."""

import os
import stat

from nsbroker.capture.pcapng import whole_blocks
from nsbroker.errors import CommandFailed


class Output:
    """Writes blocks of pcapng at once, without a buffer, so that a reader has each one as soon as it is written."""

    def __init__(self, fd: int, name: str) -> None:
        """Borrows `fd`, which is open for writing.  `name` is for errors."""
        self._fd = fd
        self._name = name
        self._can_be_cut = stat.S_ISREG(os.fstat(fd).st_mode)

    def fileno(self) -> int:
        """Return the descriptor, for poll(2): it is in error when the reader of a pipe has left."""
        return self._fd

    def write(self, blocks: bytes) -> None:
        """Write whole blocks.

        Raises BrokenPipeError when the reader of a pipe has left, and CommandFailed, as when the disk is full.  A file then still
        ends with a whole block.
        """
        left = memoryview(blocks)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            self._cut(blocks, len(blocks) - len(left))
            raise CommandFailed(f"cannot write to {self._name}: {error.strerror}; what was written before can be read") from error

    def _cut(self, blocks: bytes, written: int) -> None:
        """Cut off the block that was written only in part, if this is a file."""
        if self._can_be_cut:
            end = os.lseek(self._fd, 0, os.SEEK_CUR)
            os.ftruncate(self._fd, end - written + whole_blocks(blocks, written))
