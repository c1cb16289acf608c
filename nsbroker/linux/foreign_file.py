"""Reading a small file below a root directory that another user controls.

That user can put any file into its place, such as a FIFO, a device, a link, or a bind mount of a file that only root may read.  So
the caller acts as the user who wants to have the file (`credentials`), and a file is looked at before it is opened.  Every function
here can block for as long as the owner of the file system wants: call it on an abandonable thread.
"""

import errno
import os
import stat

from nsbroker.linux import file_system
from nsbroker.linux.openat2 import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2

SIZE_MAX = 65536
"""The number of bytes that a file may have."""

_WALK = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS


def read(root: int, path: str) -> bytes:
    """Return the content of the regular file `path` below the folder `root` (borrowed, O_PATH is enough).

    Raises ELOOP when a part of `path` is a symbolic link, EINVAL when it is another kind of file, EFBIG when it has more than
    SIZE_MAX bytes, EACCES when the calling thread may not read it, ENOENT or ENOTDIR when it is missing.
    """
    found = openat2(path, os.O_PATH, resolve=_WALK, dir_fd=root)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if file_system.magic(found) == file_system.PROC:
            # The kernel lets a process read some of its own files in /proc, whatever user its thread acts as.
            raise OSError(errno.EINVAL, "it is a file of /proc, which is another one for each reader")
        # This opens the very file that was looked at.  O_NONBLOCK: a lease of its owner must not make us wait (fcntl(2)).
        fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(found)
    try:
        return read_all(fd)
    finally:
        os.close(fd)


def read_all(fd: int) -> bytes:
    """Return what is left to read of a regular file (borrowed).  Raises EFBIG when that is more than SIZE_MAX bytes."""
    parts: list[bytes] = []
    left = SIZE_MAX + 1
    while left and (part := os.read(fd, left)):
        parts.append(part)
        left -= len(part)
    if not left:
        raise OSError(errno.EFBIG, f"it has more than {SIZE_MAX} bytes")
    return b"".join(parts)
