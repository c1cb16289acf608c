"""Files in memory that nobody can change: see memfd_create(2), and F_ADD_SEALS in fcntl(2)."""

import errno
import fcntl
import os

_NOEXEC_SEAL = 0x8  # Linux 6.3.  Some hosts refuse files in memory without it (vm.memfd_noexec).
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def sealed_copy(name: str, data: bytes) -> int:
    """Return an fd (the caller's, close-on-exec, for reading) of a new file in memory with `data`, sealed for good.

    `name` is what /proc/PID/fd shows, as "/memfd:NAME".
    """
    fd = _create(name)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        # Another open file, because this one is for writing, too, and its position is at the end.
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)


def _create(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, flags)
