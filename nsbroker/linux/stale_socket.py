"""The files of Unix sockets: they stay when nobody listens any longer, and bind(2) fails with EADDRINUSE because of them."""

import contextlib
import errno
import os
import socket
import stat


def remove_stale(path: str | os.PathLike[str]) -> None:
    """Remove the file of a Unix socket that nobody listens on.  Does nothing when there is no file.

    Raises FileExistsError for any other file, which also refuses connections (connect(2)), EADDRINUSE when somebody listens, and
    other OSErrors.
    """
    try:
        facts = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(facts.st_mode):
        raise FileExistsError(errno.EEXIST, "a file that is not a socket is there", os.fspath(path))
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        # EAGAIN: somebody listens, and the queue is full (unix(7)).
        number = probe.connect_ex(os.fspath(path))
    if number == errno.ECONNREFUSED:
        os.unlink(path)
    elif number in (0, errno.EAGAIN):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), os.fspath(path))
    else:
        raise OSError(number, os.strerror(number), os.fspath(path))


class BoundFile:
    """The file of a Unix socket that was bound a moment ago, to be removed at the end.

    Remove it while the socket is open: until then, no other file has the same inode.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Remember which file is at `path`."""
        self._path = path
        self._identity = _identity(path)

    def remove(self) -> None:
        """Remove the file, unless it is gone, or somebody put another one into its place.  Raises other OSErrors."""
        identity = _identity(self._path)
        if identity is not None and identity == self._identity:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    try:
        facts = os.lstat(path)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino
