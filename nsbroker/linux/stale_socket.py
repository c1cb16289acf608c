"""Unix sockets that nobody listens on any longer: their files stay, and bind(2) fails with EADDRINUSE because of them."""

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
