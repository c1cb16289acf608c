"""The C library through ctypes, for the calls that Python does not have."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_NAME = 15


def check(result: int, path: str | None = None) -> int:
    """Return `result`, the return value of a call.  If it is negative, raise OSError with the errno that the call set."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def name_thread(name: str) -> None:
    """Give the calling thread a name that ps(1) and top(1) show, of at most 15 bytes (PR_SET_NAME in prctl(2))."""
    libc.prctl(_PR_SET_NAME, name.encode())


def release_free_memory() -> None:
    """Return what is free in the C library's heaps to the kernel (malloc_trim(3)).  Not every C library can do that.

    It takes milliseconds, in which other threads wait when they need memory.
    """
    trim = getattr(libc, "malloc_trim", None)
    if trim is not None:
        trim(0)
