"""Which files are the configuration, and reading them.  They are found as systemd does it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nsbroker.daemon.configuration import trusted_path
from nsbroker.daemon.configuration.settings import UnreadFile
from nsbroker.errors import ConfigurationError

NAME = "nsbroker.toml"
_DROP_INS = "nsbroker.d"
_SUFFIX = ".toml"
_PACKAGE = Path(__file__).parents[1]
SHIPPED = _PACKAGE / _DROP_INS / "00-default.toml"
"""The rules that nsbroker has when it is installed."""
DIRECTORIES = (_PACKAGE, Path("/usr/lib/nsbroker"), Path("/run/nsbroker"), Path("/etc/nsbroker"))
"""The directories with configuration; a file in a later one replaces a file of the same name in an earlier one."""
_FILE_MAX = 1024 * 1024
_NULL = os.makedev(1, 3)


class FoundFiles(NamedTuple):
    """The files that there are.

    Each of `groups` has the files of one name, in the order of the directories: the last one counts.  `errors` says which
    directories could not be listed.
    """

    groups: list[list[Path]]
    unread: list[UnreadFile]
    errors: list[str]


def find(place: Path | None) -> FoundFiles:
    """Find the files of the system's configuration, or only those at `place`: a file, or a directory."""
    found = FoundFiles([], [], [])
    if place is not None and not place.is_dir():
        found.groups.append([place])
        return found
    directories = DIRECTORIES if place is None else (place,)
    drop_ins: dict[str, list[Path]] = {}
    for directory in directories:
        try:
            names = _list(directory / _DROP_INS)
        except ConfigurationError as error:
            found.errors.extend(error.problems)
            continue
        for name in names:
            path = directory / _DROP_INS / name
            if name.endswith(_SUFFIX):
                drop_ins.setdefault(name, []).append(path)
            else:
                found.unread.append(UnreadFile(path, f"its name does not end in {_SUFFIX}: rename it, or move it away"))
    mains = [path for path in (directory / NAME for directory in directories) if os.path.lexists(path)]
    found.groups.extend(group for group in (mains, *(drop_ins[name] for name in sorted(drop_ins))) if group)
    if place is not None and not found.groups and not found.errors:
        found.errors.append(f"{place}: no such file in it: neither {NAME} nor {_DROP_INS}/NAME{_SUFFIX}")
    return found


def read(path: Path) -> str | None:
    """Return the text of a file; None for a link to /dev/null, which disables the file of this name.

    Raises ConfigurationError when it cannot be read, or when others than root could change it.
    """
    try:
        # Whoever could change the file beside our code could change the code, too, so a check of it would be useless.
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC) if path == SHIPPED else trusted_path.open_trusted(path)
        try:
            facts = os.fstat(fd)
            if stat.S_ISCHR(facts.st_mode) and facts.st_rdev == _NULL:
                return None
            if not stat.S_ISREG(facts.st_mode):
                raise ConfigurationError(f"{path}: not a regular file: move it away")
            with open(f"/proc/self/fd/{fd}", "rb") as file:
                text = file.read(_FILE_MAX + 1)
        finally:
            os.close(fd)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot read it: {error.strerror}") from error
    if len(text) > _FILE_MAX:
        raise ConfigurationError(f"{path}: larger than {_FILE_MAX} bytes: divide it into several files in {_DROP_INS}")
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}:{line}: not UTF-8 text: save it in UTF-8") from error


def explain_unread(group: list[Path], is_disabled: bool) -> Iterator[UnreadFile]:
    """Yield the files of a group that are not read, because the last one takes their place, or disables them (`is_disabled`)."""
    *earlier, last = group
    for path in earlier:
        how = f"disabled by {last}, a link to /dev/null" if is_disabled else f"replaced by {last}, which has the same name"
        yield UnreadFile(path, f"{how}: the shipped rules do not apply" if path == SHIPPED else how)
    if is_disabled and not earlier:
        yield UnreadFile(last, "it is a link to /dev/null, but no other directory has a file of that name to disable")


def _list(directory: Path) -> list[str]:
    """Return the names in a directory, in order; none if there is no such directory.  Raises ConfigurationError."""
    try:
        if directory == SHIPPED.parent:
            return sorted(os.listdir(directory))
        fd = trusted_path.open_trusted(directory)
        try:
            trusted_path.check_unshared(fd, directory)
            # What was opened with O_PATH cannot be listed itself.
            listed = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            try:
                return sorted(os.listdir(listed))
            finally:
                os.close(listed)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigurationError(f"{directory}: cannot list it: {error.strerror}") from error
