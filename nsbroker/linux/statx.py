"""statx(2), Linux 4.11: what a file is, without asking a file system that has to ask somebody else.  Python has no call for it."""

import ctypes
import os
import struct
from typing import NamedTuple

from nsbroker.linux.libc import check, libc

_AT_EMPTY_PATH = 0x1000
_AT_STATX_DONT_SYNC = 0x4000
_STATX_INO = 0x100
_SIZE = 256
_INODE = struct.Struct("=32xQ")
_DEVICE = struct.Struct("=136xII")

libc.statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)


class Identity(NamedTuple):
    """Which file it is."""

    device: int
    inode: int


def statx(fd: int) -> Identity:
    """The device and the inode of `fd` (borrowed), as far as this machine knows them already (AT_STATX_DONT_SYNC)."""
    answer = ctypes.create_string_buffer(_SIZE)
    check(libc.statx(fd, b"", _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC, _STATX_INO, answer))
    return Identity(os.makedev(*_DEVICE.unpack_from(answer)), int(_INODE.unpack_from(answer)[0]))
