"""The socket that the broker listens on: one that the service manager passes, or one that the broker makes itself."""

import errno
import os
import socket
import stat
from pathlib import Path

from nsbroker.errors import ConfigurationError
from nsbroker.linux.stale_socket import BoundFile, remove_stale

_BACKLOG = 128


class Listener:
    """A listening socket, and its file if the broker made the socket itself and has to remove the file at the end.

    Owns the socket; close it.
    """

    def __init__(self, sock: socket.socket, file: BoundFile | None) -> None:
        self.sock = sock
        self._file = file

    def withdraw(self) -> None:
        """Remove the file, so that nobody new can connect; connections in the queue can still be accepted."""
        file, self._file = self._file, None
        if file is not None:
            file.remove()

    def close(self) -> None:
        """Remove the file and close the socket."""
        self.withdraw()
        self.sock.close()


def passed_socket(fds: list[int]) -> Listener:
    """Take the socket that the service manager passed.  Takes `fds`.

    Raises ConfigurationError unless it is exactly one listening AF_UNIX stream socket.
    """
    sockets = [socket.socket(fileno=fd) for fd in fds]
    try:
        if len(sockets) != 1 or not _is_usable(sockets[0]):
            raise ConfigurationError(
                "the service manager must pass exactly one socket, a listening AF_UNIX stream socket: check the socket unit"
            )
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    sockets[0].set_inheritable(False)
    sockets[0].setblocking(False)
    return Listener(sockets[0], None)


def _is_usable(sock: socket.socket) -> bool:
    listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    return bool(listening) and (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM)


def own_socket(path: Path) -> Listener:
    """Make a listening socket at `path`.  Everyone may connect to it: the policy decides who may do what.

    A socket file that nobody listens on any more is replaced.  Raises ConfigurationError when a broker answers at `path`, when
    the file there is not a socket, and when other users could replace the socket with one of their own.
    """
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _check_parent(path.parent)
        _remove_stale(path)
        return Listener(_bind(path), BoundFile(path))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot listen there: {error.strerror or error}") from error


def _check_parent(parent: Path) -> None:
    facts = parent.stat()
    writable = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if facts.st_uid not in (0, os.geteuid()) or (writable and not facts.st_mode & stat.S_ISVTX):
        raise ConfigurationError(
            f"{parent}: others could put their own socket there: make root its owner, and let only root write to it"
        )


def _remove_stale(path: Path) -> None:
    try:
        remove_stale(path)
    except FileExistsError as error:
        raise ConfigurationError(
            f"{path}: a file that is not a socket is there: move it away, or choose another --address"
        ) from error
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise ConfigurationError(f"{path}: a broker is already running there: stop it, or choose another --address") from error


def _bind(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o111)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
