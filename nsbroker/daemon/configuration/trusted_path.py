"""Opening a path that nobody but trusted users could have changed: neither the file, nor a folder or a link on the way to it.

Each step of the way is opened relative to the one before (openat(2)) and checked once it is open.  So what was checked is what is
read, whatever is renamed meanwhile.
"""

import errno
import os
import stat
from pathlib import Path

from nsbroker.daemon.ownership import find_fault
from nsbroker.errors import ConfigurationError
from nsbroker.linux.user_namespace import maps_every_uid, overflow_uid

# The kernel's own limit (path_resolution(7)).
_LINKS_MAX = 40
_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def open_trusted(path: Path) -> int:
    """Open `path` with O_PATH, and return the fd (the caller's): of a file, a folder or a device, never of a link.

    All folders and links on the way to it were checked, and it, too, unless it is a device.  Root and the user who runs the broker
    are trusted.  Raises ConfigurationError, which names the first one that others could change, and OSError.
    """
    walk = _Walk()
    try:
        walk.restart()
        parts = [*reversed(path.absolute().parts[1:])]
        links = 0
        while parts:
            part = parts.pop()
            if part == "..":
                walk.leave()
                continue
            target = walk.enter(part)
            if target is None:
                continue
            links += 1
            if links > _LINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            if target.is_absolute():
                walk.restart()
            parts += [part for part in reversed(target.parts) if part != "/"]
        return walk.take()
    finally:
        walk.close()


def check_unshared(fd: int, path: Path) -> None:
    """Check that only trusted users can put files into a folder (`fd` is borrowed): the sticky bit is not enough there.

    Raises ConfigurationError.
    """
    _check(fd, path, is_on_way=False, sticky_suffices=False)


class _Walk:
    """The folders from the root to where the walk is.  It owns their fds; close it."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        self._names: list[str] = []

    def restart(self) -> None:
        """Go to the root of the file system."""
        self.close()
        self._fds.append(os.open("/", _STEP))
        _check(self._fds[0], Path("/"), is_on_way=True)

    def leave(self) -> None:
        """Go to the folder above.  That of the root is the root itself."""
        if self._names:
            os.close(self._fds.pop())
            self._names.pop()

    def enter(self, name: str) -> Path | None:
        """Go on to an entry of the folder.  If it is a link, stay in the folder and return what it points to."""
        above = os.fstat(self._fds[-1])
        fd = os.open(name, _STEP, dir_fd=self._fds[-1])
        try:
            facts = os.fstat(fd)
            if not _is_device(facts):
                # In a folder that others can write to, too, only what belongs to a trusted user cannot be replaced by them.
                is_shared = above.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
                is_plain = stat.S_ISREG(facts.st_mode)
                _check(fd, Path("/", *self._names, name), is_on_way=not (is_shared or is_plain))
            target = Path(os.readlink("", dir_fd=fd)) if stat.S_ISLNK(facts.st_mode) else None
        except BaseException:
            os.close(fd)
            raise
        if target is not None:
            os.close(fd)
            return target
        self._fds.append(fd)
        self._names.append(name)
        return None

    def take(self) -> int:
        """Return the fd of where it is; it is the caller's now."""
        return self._fds.pop()

    def close(self) -> None:
        """Close all fds."""
        while self._fds:
            os.close(self._fds.pop())
        self._names.clear()


def _check(fd: int, path: Path, *, is_on_way: bool, sticky_suffices: bool = True) -> None:
    """Check a file, a folder or a link (`fd` is borrowed).  Raises ConfigurationError.

    In a user namespace, the host's root looks like everybody else who has no uid there.  `is_on_way`: accept that, because all
    paths begin with folders of the host.

    Others may have the right to write to a folder if they cannot replace what is in it: because it is sticky, or because it is
    mounted read-only, as the folder of a ConfigMap of Kubernetes is, whose mode is 777.
    """
    facts = os.fstat(fd)
    owners = [0, os.geteuid()]
    if is_on_way and not maps_every_uid():
        owners.append(overflow_uid())
    is_guarded = (sticky_suffices and bool(facts.st_mode & stat.S_ISVTX)) or bool(os.fstatvfs(fd).f_flag & os.ST_RDONLY)
    fault = find_fault(path, facts, owners, is_guarded=is_guarded)
    if fault is not None:
        raise ConfigurationError(f"{path} {fault.reason}, so others than root could change the policy: run `{fault.command}`")


def _is_device(facts: os.stat_result) -> bool:
    return stat.S_ISCHR(facts.st_mode) or stat.S_ISBLK(facts.st_mode)
