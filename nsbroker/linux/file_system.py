"""Which file system a file is on: see fstatfs(2), and the kernel's include/uapi/linux/magic.h."""

import ctypes

from nsbroker.linux.libc import check, libc

PROC = 0x9FA0
TMPFS = 0x01021994

# struct statfs begins with the type, a long, on every 64-bit architecture.  It has 120 bytes there.
_SIZE = 256


def magic(fd: int) -> int:
    """Return the number of the file system that `fd` (borrowed, O_PATH too) is on, such as PROC.

    This can block for as long as the file system likes.
    """
    facts = ctypes.create_string_buffer(_SIZE)
    check(libc.fstatfs(ctypes.c_int(fd), facts))
    return ctypes.c_long.from_buffer(facts).value & 0xFFFFFFFF
