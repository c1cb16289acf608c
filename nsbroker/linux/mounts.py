"""mount(2) and umount2(2), as far as named namespaces and `nsbroker via` need them.  Python has no functions for them."""

import ctypes
import os

from nsbroker.linux.libc import check, libc

_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_SLAVE = 1 << 19
_MS_SHARED = 1 << 20
_NOTHING_SPECIAL = 2 | 4 | 8  # MS_NOSUID, MS_NODEV, MS_NOEXEC
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8

libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


def bind(source: str, place: str, *, recursive: bool = False) -> None:
    """Make the file or folder `source` appear at `place`."""
    _mount(source, place, _MS_BIND | (_MS_REC if recursive else 0))


def make_shared(place: str) -> None:
    """Make the mount at `place` and all mounts below it shared, so that mounts made there propagate (mount_namespaces(7)).

    Raises EINVAL when `place` is not a mount point.
    """
    _mount("", place, _MS_SHARED | _MS_REC)


def make_slave(place: str) -> None:
    """Let no mount made at `place` or below propagate from here, while those made elsewhere still arrive (mount_namespaces(7)).

    Raises EINVAL when `place` is not a mount point.
    """
    _mount("", place, _MS_SLAVE | _MS_REC)


def mount_memory(place: str, size: int) -> None:
    """Mount a new, empty file system in memory at the folder `place`, for files of the calling user with `size` bytes in all.

    The kernel rounds `size`, and each file, up to whole pages (tmpfs(5)).
    """
    options = f"mode=755,size={size}".encode()
    check(libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", _NOTHING_SPECIAL, options), place)


def unmount(place: str) -> None:
    """Detach the mount at `place` at once; the kernel removes it when nobody uses it any more (MNT_DETACH).

    Raises EINVAL when `place` is not a mount point.
    """
    check(libc.umount2(os.fsencode(place), _MNT_DETACH | _UMOUNT_NOFOLLOW), place)


def _mount(source: str, place: str, flags: int) -> None:
    check(libc.mount(os.fsencode(source), os.fsencode(place), b"none", flags, None), place)
