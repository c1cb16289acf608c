"""Capabilities of the calling thread: see capabilities(7), capset(2), and the kernel's include/uapi/linux/capability.h."""

import contextlib
import ctypes
from collections.abc import Iterator

from nsbroker.linux.libc import check, libc

CAP_NET_BIND_SERVICE = 1 << 10
CAP_NET_ADMIN = 1 << 12
CAP_NET_RAW = 1 << 13
CAP_SYS_ADMIN = 1 << 21
ALL = (1 << 64) - 1

_VERSION_3 = 0x20080522

# The header says: the calling thread.  The kernel writes to it only if it does not know the version.
_HEADER = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
# The effective, permitted and inheritable set: first the low 32 bits of each, and then the high ones.
_Sets = ctypes.c_uint32 * 6
_EFFECTIVE, _PERMITTED = 0, 1
_HIGH = 3


def use_only(wanted: int) -> None:
    """Set the effective capabilities of the calling thread to those of `wanted` that are permitted to it.

    The permitted set does not change, so the thread can make the capabilities effective again.
    """
    sets = _Sets()
    check(libc.capget(_HEADER, sets))
    sets[_EFFECTIVE] = sets[_PERMITTED] & wanted
    sets[_HIGH + _EFFECTIVE] = sets[_HIGH + _PERMITTED] & wanted >> 32
    check(libc.capset(_HEADER, sets))


@contextlib.contextmanager
def limited_to(wanted: int) -> Iterator[None]:
    """Let the calling thread have only the effective capabilities `wanted`, and then all that are permitted to it again."""
    use_only(wanted)
    try:
        yield
    finally:
        use_only(ALL)
