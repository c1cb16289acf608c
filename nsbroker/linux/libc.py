"""The C library through ctypes, for the calls that Python does not have."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, path: str | None = None) -> int:
    """Return `result`, the return value of a call.  If it is negative, raise OSError with the errno that the call set."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result
