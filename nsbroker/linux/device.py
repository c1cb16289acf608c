"""Finding and opening character devices below a /dev that another user controls.

A device is found without opening it, and is opened only after a check of its numbers.  Every function here can block for as
long as the owner of the file system wants: call it on an abandonable thread.
"""

import errno
import os
import stat
from collections.abc import Iterator

from nsbroker.linux.descriptors import is_out_of_files
from nsbroker.linux.openat2 import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2

_WALK = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS
_DEPTH_MAX = 4
_ENTRIES_MAX = 10_000


def find(root: int, name: str) -> int:
    """Return an O_PATH fd (the caller's, close-on-exec) of `name` below the /dev of `root` (borrowed), whatever file it is.

    Raises ELOOP when `name` or a folder on its path is a symbolic link, ENOENT or ENOTDIR when there is no such file.
    """
    return openat2(f"dev/{name}", os.O_PATH, resolve=_WALK, dir_fd=root)


def number(found: int) -> tuple[int, int] | None:
    """Return the major and minor number of the character device `found` (borrowed), or None when it is another file."""
    facts = os.fstat(found)
    return (os.major(facts.st_rdev), os.minor(facts.st_rdev)) if stat.S_ISCHR(facts.st_mode) else None


def open_found(found: int, access: int, *, non_blocking: bool = False) -> int:
    """Open the character device `found` (borrowed) and return the fd (the caller's, close-on-exec).

    `access` is O_RDONLY, O_WRONLY or O_RDWR.  With `non_blocking`, the fd has O_NONBLOCK.  A terminal does not become the
    controlling terminal.  Raises EPERM where the device cgroup of this process forbids access, ENXIO or ENODEV without a driver,
    EACCES on a file system that is mounted without devices (nodev).
    """
    # Without O_NONBLOCK, some drivers wait until somebody is at the other end.
    fd = os.open(f"/proc/self/fd/{found}", access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if number(fd) != number(found):
            raise OSError(errno.ENODEV, "the device that was opened is not the one that was found")
        os.set_blocking(fd, not non_blocking)
    except BaseException:
        os.close(fd)
        raise
    return fd


def walk(root: int) -> Iterator[tuple[str, os.stat_result]]:
    """Yield every name below the /dev of `root` (borrowed), up to four levels deep, with the facts about the file (lstat(2)).

    No file but directories is opened, one at a time, and no link is followed.  Files that vanish meanwhile are left out.  Raises
    EFBIG when there are more than 10 000 names, OSError without a /dev.
    """
    left = _ENTRIES_MAX
    # Names, not descriptors: whoever made this /dev decides how many folders it has.
    prefixes = [""]
    while prefixes:
        prefix = prefixes.pop()
        folder = _open_folder(root, prefix)
        if folder is None:
            continue
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    left -= 1
                    if left < 0:
                        raise OSError(errno.EFBIG, "there are too many names below /dev")
                    name = f"{prefix}{entry.name}"
                    facts = _read_facts(folder, entry.name)
                    if facts is None:
                        continue
                    yield name, facts
                    if stat.S_ISDIR(facts.st_mode) and name.count("/") + 1 < _DEPTH_MAX:
                        prefixes.append(f"{name}/")
        finally:
            os.close(folder)


def _open_folder(root: int, prefix: str) -> int | None:
    """Return an fd (the caller's) of a folder below /dev, or None when it is no folder any more.

    `prefix` is its name with a slash at the end, or "" for /dev itself, without which OSError is raised.
    """
    try:
        return openat2(f"dev/{prefix}", os.O_RDONLY | os.O_DIRECTORY, resolve=_WALK, dir_fd=root)
    except OSError as error:
        if not prefix or is_out_of_files(error):
            raise
        return None


def _read_facts(folder: int, name: str) -> os.stat_result | None:
    try:
        return os.lstat(name, dir_fd=folder)
    except OSError:
        return None
