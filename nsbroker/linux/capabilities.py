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


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    """One half of the capability sets: the low or the high 32 bits of each."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


# ctypes would make this class anew for each use.
_BothSets = _Sets * 2


def use_only(wanted: int) -> None:
    """Set the effective capabilities of the calling thread to those of `wanted` that are permitted to it.

    The permitted set does not change, so the thread can make the capabilities effective again.
    """
    header = _Header(_VERSION_3, 0)
    sets = _BothSets()
    check(libc.capget(ctypes.byref(header), sets))
    for number, half in enumerate(sets):
        half.effective = half.permitted & (wanted >> 32 * number) & 0xFFFFFFFF
    check(libc.capset(ctypes.byref(header), sets))


@contextlib.contextmanager
def limited_to(wanted: int) -> Iterator[None]:
    """Let the calling thread have only the effective capabilities `wanted`, and then all that are permitted to it again."""
    use_only(wanted)
    try:
        yield
    finally:
        use_only(ALL)
