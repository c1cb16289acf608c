"""File descriptors: whether they are open, closing several, and recognizing that there can be no more of them."""

import errno
import os
from collections.abc import Iterable
from itertools import repeat


def is_open(fd: int) -> bool:
    """Return whether `fd` (borrowed) is open."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def close_all(fds: Iterable[int]) -> None:
    """Close each of `fds` (taken)."""
    for fd in fds:
        os.close(fd)


def close_and_clear(fds: list[int]) -> None:
    """Close each of `fds` and remove it from the list, in one step.

    When a signal handler raises an exception meanwhile, every descriptor that is still open is still in the list, and
    every number in the list is still open.  Errors of close(2) are ignored, because no caller can act on them, except
    EBADF, which means that the descriptor was not ours.
    """
    while fds:
        try:
            # The interpreter runs signal handlers only between its own instructions, and this is a single instruction.
            any(map(os.close, map(fds.pop, repeat(-1, len(fds)))))
        except IndexError:
            return  # Another thread closed the rest.
        except OSError as error:
            if error.errno == errno.EBADF:
                raise


def is_out_of_files(error: Exception) -> bool:
    """Return whether there was no room for one more descriptor: of this process (EMFILE), or on this host (ENFILE)."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
