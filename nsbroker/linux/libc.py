"""libc by way of ctypes, for the calls that Python does not have."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, path: str | None = None) -> int:
    """`result`, as the call returned it; when it is negative, OSError with what the call left in errno."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result
