"""`nsbroker serve`, but before Linux 6.5 it identifies the process at the other end of a connection by its pid alone.

On such a kernel, which has no SO_PEERPIDFD, a real broker does not know the caller's process: it treats root as an ordinary
anonymous peer, and nobody has a unit or a `self`.  Most tests act as root and are about other things.  The pid at the time of
connect(2) is good enough for them: no process of a test ends and has its pid used again by chance.
`Daemon(by_number=False)` starts a real broker, for the tests of what holds without SO_PEERPIDFD.
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
