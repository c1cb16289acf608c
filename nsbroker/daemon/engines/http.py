"""HTTP requests to an engine on a Unix socket, with a check that the right user serves it."""

import os
import socket
import stat
from pathlib import Path
from typing import NamedTuple

import h11
import trio

from nsbroker.errors import EngineUnavailable
from nsbroker.linux.socket_options import peer_credentials

_ANSWER_MAX = 4 * 1024 * 1024
_PIECE = 64 * 1024
_HEADERS = [("Host", "engine"), ("Accept", "application/json"), ("Connection", "close")]


class Response(NamedTuple):
    """The status and the body of a response."""

    status: int
    body: bytes


async def get(place: Path, user: int, engine: str, path: str) -> Response:
    """GET `path` from the server on the socket `place`; both the socket and the server must be of the uid `user`.

    Raises EngineUnavailable, and FileNotFoundError or ConnectionRefusedError where nothing listens.
    """
    with _connect(place, user, engine) as sock:
        try:
            return await _exchange(sock, path)
        except (OSError, h11.ProtocolError, ValueError) as error:
            raise EngineUnavailable(engine, f"{place}: {error or type(error).__name__}") from error


async def _exchange(sock: socket.socket, path: str) -> Response:
    """Send the request, and return the response.  Raises OSError, h11.ProtocolError, and ValueError if the response is too long.

    `sock` is non-blocking.  A method of trio.socket would let all other tasks run first, even if it need not wait.
    """
    connection = h11.Connection(h11.CLIENT)
    request = connection.send(h11.Request(method="GET", target=path, headers=_HEADERS)) or b""
    connection.send(h11.EndOfMessage())
    while request:
        try:
            request = request[sock.send(request) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
    status, body = 0, bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            await trio.lowlevel.wait_readable(sock)
            piece = sock.recv(_PIECE)
            if not piece and not status:
                raise h11.RemoteProtocolError("the server hung up without an answer")
            connection.receive_data(piece)
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > _ANSWER_MAX:
                raise ValueError(f"the answer has more than {_ANSWER_MAX} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return Response(status, bytes(body))


def _connect(place: Path, user: int, engine: str) -> socket.socket:
    """Connect to a socket that `user` owns, and to a server that runs as `user`.  The connection is the caller's to close."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # Open the socket's file, check it, and connect through the fd: a link that somebody puts in its place has no effect.
        fd = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            facts = os.fstat(fd)
            if not stat.S_ISSOCK(facts.st_mode):
                raise EngineUnavailable(engine, f"{place} is no socket")
            _check_user(facts.st_uid, user, engine, f"{place} belongs to")
            sock.connect(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        _check_user(peer_credentials(sock).uid, user, engine, f"{place} is served by")
    except BlockingIOError as error:
        sock.close()
        raise EngineUnavailable(engine, f"{place} has no room for another connection now: try again") from error
    except BaseException:
        sock.close()
        raise
    return sock


def _check_user(uid: int, user: int, engine: str, what: str) -> None:
    if uid != user:
        raise EngineUnavailable(engine, f"{what} uid {uid}, not uid {user}, who should run it")
