"""Tap interfaces: see the kernel's Documentation/networking/tuntap.rst and include/uapi/linux/if_tun.h.

An fd of /dev/net/tun belongs to the network namespace of the thread that opened it.
"""

import ctypes
import fcntl
import os
import struct

_PATH = "/dev/net/tun"
DEVICE = (10, 200)
"""The major and minor number of /dev/net/tun."""

_TUNSETIFF = 0x400454CA
_TUNSETOWNER = 0x400454CC
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_TUN_EXCL = 0x8000
# struct ifreq: the name, the flags, and room for the largest of the other fields.
_IFREQ = struct.Struct("=16sH22x")


def open_clone() -> int:
    """Open /dev/net/tun and return the fd (the caller's, close-on-exec), for an interface in the calling thread's network.

    Raises ENOENT without such a file, EPERM where the device cgroup forbids it, ENODEV or ENXIO when the kernel has no tun.
    """
    return os.open(_PATH, os.O_RDWR | os.O_CLOEXEC)


def add_tap(fd: int, name: str, owner: int) -> None:
    """Add the tap `name`, which belongs to the uid `owner`, and connect `fd` (borrowed, from `open_clone`) to it.

    Each read(2) of `fd` then returns one Ethernet frame, without any header before it (IFF_NO_PI).  The interface lasts until all
    copies of `fd` are closed, unless one of their holders makes it persistent (TUNSETPERSIST).  It is not set up.

    Raises EBUSY when there is an interface with that name, EPERM without CAP_NET_ADMIN in the user namespace that owns the network.
    """
    fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_TUN_EXCL))
    # Python passes the number as a signed int.
    fcntl.ioctl(fd, _TUNSETOWNER, ctypes.c_int32(owner).value)
