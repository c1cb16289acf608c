"""`nsbroker serve`, which before Linux 6.5 takes the process at the other end of a connection by its number alone.

There, a real broker knows no caller's process: root is nobody in particular to it, and nobody has a unit or a `self`
(SO_PEERPIDFD is what tells).  Most tests act as root, of things that have nothing to do with that.  The number of connect
time does for them: no test's process ends and has its number used again by chance.  `Daemon(by_number=False)` starts a real
one, for tests of what holds without.
"""

import os
import socket
import sys

from nsbroker.cli.main import main
from nsbroker.linux import socket_options

_real = socket_options.peer_pidfd


def _by_number(sock: socket.socket) -> int:
    try:
        return _real(sock)
    except OSError:
        return os.pidfd_open(socket_options.peer_credentials(sock).pid)


if __name__ == "__main__":
    socket_options.peer_pidfd = _by_number
    sys.exit(main())
