"""The socket that the broker listens on: the one that systemd passes, or one of its own."""

import contextlib
import os
import socket
import stat
from pathlib import Path

from nsbroker.errors import ConfigurationError

_BACKLOG = 128


class Listener:
    """A listening socket, and the path to take away with it where it is ours.  Owns the socket; close it."""

    def __init__(self, sock: socket.socket, path: Path | None) -> None:
        self.sock = sock
        self._path = path

    def withdraw(self) -> None:
        """Let nobody new find the socket; those who are waiting can still be accepted."""
        path, self._path = self._path, None
        if path is not None:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def close(self) -> None:
        """Take the path away and close the socket."""
        self.withdraw()
        self.sock.close()


def passed_socket(fds: list[int]) -> Listener:
    """The one of `fds` (owned) that the service manager passed.  Raises ConfigurationError when it is of no use here."""
    sockets = [socket.socket(fileno=fd) for fd in fds]
    try:
        if len(sockets) != 1 or not _is_usable(sockets[0]):
            raise ConfigurationError("the service manager must pass exactly one socket, an AF_UNIX stream one that listens")
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
    """A socket of our own at `path`, open to everyone: who may do what is for the policy to say.

    A stale file is replaced.  Raises ConfigurationError when a broker answers there, when something else than a socket
    is there, and when others could put a socket of theirs in its place.
    """
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _check_parent(path.parent)
        _clear(path)
        return Listener(_bind(path), path)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot listen there: {error.strerror or error}") from error


def _check_parent(parent: Path) -> None:
    facts = parent.stat()
    writable = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if facts.st_uid not in (0, os.geteuid()) or (writable and not facts.st_mode & stat.S_ISVTX):
        raise ConfigurationError(f"{parent}: others could put their own socket there: it must be root's, writable by root alone")


def _clear(path: Path) -> None:
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(facts.st_mode):
        raise ConfigurationError(f"{path}: there is something else than a socket: move it away, or choose another --address")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except TimeoutError:
            pass
    raise ConfigurationError(f"{path}: a broker is already running there: stop it, or choose another --address")


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
