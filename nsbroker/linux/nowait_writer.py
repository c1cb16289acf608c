"""Writing to an open file that other processes share, without waiting for it.

O_NONBLOCK belongs to the open file (open(2)), so it would hold for the others, too: for the shell that started the broker, for
example.
"""

import errno
import os
import select
import stat

# What the kernel says about files for which it does not know the flag: pipes before Linux 6.4, terminals.
_NO_NOWAIT = (errno.EOPNOTSUPP, errno.ENOSYS)


class NowaitWriter:
    """Writes to `fd` (borrowed, and always the same open file) without waiting.

    Sockets and pipes (Linux 6.4) take RWF_NOWAIT for a single write: see pwritev2(2).  Other files are asked first whether they
    have room, which another process can take meanwhile.  Regular files always have (poll(2)).
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._is_regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._has_nowait = True
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def write(self, data: bytes) -> int:
        """Write `data`, and return the number of bytes that were written.

        A pipe takes up to PIPE_BUF bytes whole or not at all (pipe(7)).  Raises BlockingIOError when there is no room, and OSError.
        """
        if self._is_regular:
            return os.write(self._fd, data)
        if self._has_nowait:
            try:
                return os.pwritev(self._fd, (data,), -1, os.RWF_NOWAIT)
            except OSError as error:
                if error.errno not in _NO_NOWAIT:
                    raise
                self._has_nowait = False
        if not any(events & select.POLLOUT for _, events in self._poll.poll(0)):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return os.write(self._fd, data)
