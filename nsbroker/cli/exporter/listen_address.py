"""Where the exporter listens: how that is written, and the listening socket."""

import argparse
import contextlib
import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nsbroker.errors import CommandFailed
from nsbroker.linux.stale_socket import BoundFile, remove_stale

_BACKLOG = 128
_PORT_MAX = 65535
_UNIX = "unix:"
_TCP = re.compile(r"(?:(?P<address>\[[0-9A-Fa-f:.%]+\]|[^:\[\]]*):)?(?P<port>[0-9]{1,5})")
_FORMS = "[ADDRESS:]PORT or unix:PATH, such as 10753 or unix:/run/metrics/socket"


class ListenAddress(NamedTuple):
    """A TCP address and port (0: any free port), or the path of a Unix socket."""

    address: str
    port: int
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> "ListenAddress":
        """Parse `[ADDRESS:]PORT` or `unix:PATH`; without ADDRESS, it is 127.0.0.1.  Raises ArgumentTypeError."""
        if text.startswith(_UNIX):
            path = Path(text.removeprefix(_UNIX))
            if not path.is_absolute() or "\0" in text:
                raise argparse.ArgumentTypeError(f"{text[:80]!r} is not {_FORMS}: the path must begin with /")
            return cls("", 0, path)
        match = _TCP.fullmatch(text)
        if match is None or int(match["port"]) > _PORT_MAX:
            raise argparse.ArgumentTypeError(f"{text[:80]!r} is not {_FORMS}")
        if match["address"] == "":
            raise argparse.ArgumentTypeError(
                f"{text[:80]!r} would be every address of this host: write 0.0.0.0:{match['port']} if that is what you want"
            )
        return cls((match["address"] or "127.0.0.1").strip("[]"), int(match["port"]))

    def __str__(self) -> str:
        """Return the address as people write it."""
        return f"{self.address} port {self.port}" if self.path is None else str(self.path)

    @contextlib.contextmanager
    def listen(self) -> Iterator[socket.socket]:
        """Yield a listening socket, which is closed at the end; before that, the file of a Unix socket is removed.

        Raises CommandFailed.
        """
        try:
            sock = self._listen_inet() if self.path is None else _listen_unix(self.path)
        except (OSError, UnicodeError) as error:
            # UnicodeError: the text cannot be a host name.
            raise CommandFailed(f"cannot listen on {self}: {_reason(error)}: choose another --listen") from error
        with sock:
            file = BoundFile(self.path) if self.path is not None else None
            try:
                yield sock
            finally:
                if file is not None:
                    file.remove()

    def _listen_inet(self) -> socket.socket:
        found = socket.getaddrinfo(self.address, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address, family=family, backlog=_BACKLOG)


def format_url(sock: socket.socket) -> str:
    """Return where a listening socket (borrowed) serves metrics, as people write it."""
    address = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"{_UNIX}{address}"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{host}:{address[1]}/metrics"


def _reason(error: OSError | UnicodeError) -> str:
    number = getattr(error, "errno", None)
    # The text of create_server repeats the address, and numbers below 0 are those of getaddrinfo(3).
    return os.strerror(number) if number and number > 0 else getattr(error, "strerror", None) or str(error)


def _listen_unix(path: Path) -> socket.socket:
    """Listen at `path`.  The umask and the folder decide who can connect.  A socket on which nobody listens is replaced."""
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(os.fspath(path))
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: Path) -> None:
    try:
        remove_stale(path)
    except FileExistsError as error:
        raise CommandFailed(f"cannot listen on {path}: a file that is not a socket is there: choose another --listen") from error
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        text = f"cannot listen on {path}: another program listens there: stop it, or choose another --listen"
        raise CommandFailed(text) from error
