"""HTTP requests to an engine on a Unix socket, with a check that the right user serves it."""

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import httpcore2
import trio

from nsbroker.errors import EngineUnavailable
from nsbroker.linux.socket_options import peer_credentials

_ANSWER_MAX = 4 * 1024 * 1024
_ORIGIN = httpcore2.Origin(b"http", b"engine", 80)
# The uid of a socket without a peer.  trio treats an AF_UNIX socket as connected even if the listener's queue was full.
_NOT_CONNECTED = 2**32 - 1
_Options = Iterable[httpcore2.SOCKET_OPTION] | None


class Response(NamedTuple):
    """The status and the body of a response."""

    status: int
    body: bytes


async def get(place: Path, user: int, engine: str, path: str) -> Response:
    """GET `path` from the server on the socket `place`; both the socket and the server must be of the uid `user`.

    Raises EngineUnavailable, and FileNotFoundError or ConnectionRefusedError where nothing listens.
    """
    body = bytearray()
    try:
        async with (
            httpcore2.AsyncHTTPConnection(_ORIGIN, uds=str(place), network_backend=_Trusted(user, engine)) as connection,
            connection.stream("GET", f"http://engine{path}", headers={"Host": "engine", "Accept": "application/json"}) as response,
            contextlib.aclosing(response.aiter_stream()) as pieces,
        ):
            async for piece in pieces:
                body += piece
                if len(body) > _ANSWER_MAX:
                    raise EngineUnavailable(engine, f"{place}: the answer has more than {_ANSWER_MAX} bytes")
            return Response(response.status, bytes(body))
    except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
        raise EngineUnavailable(engine, f"{place}: {error or type(error).__name__}") from error


class _Trusted(httpcore2.AsyncNetworkBackend):
    """Connects only to sockets that `user` owns, and only to servers that run as `user`."""

    def __init__(self, user: int, engine: str) -> None:
        self._user = user
        self._engine = engine
        self._backend = httpcore2.TrioBackend()

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: _Options = None
    ) -> httpcore2.AsyncNetworkStream:
        # Open the socket's file, check it, and connect through the fd: a link that somebody puts in its place has no effect.
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            facts = os.fstat(fd)
            if not stat.S_ISSOCK(facts.st_mode):
                raise EngineUnavailable(self._engine, f"{path} is no socket")
            self._check_user(facts.st_uid, f"{path} belongs to")
            stream = await self._backend.connect_unix_socket(f"/proc/self/fd/{fd}", timeout, socket_options)
        except httpcore2.ConnectError as error:
            if isinstance(error.__cause__, ConnectionRefusedError):
                raise error.__cause__ from error
            raise
        finally:
            os.close(fd)
        try:
            self._check_user(peer_credentials(stream.get_extra_info("socket")).uid, f"{path} is served by")
        except BaseException:
            await stream.aclose()
            raise
        return stream

    def _check_user(self, uid: int, what: str) -> None:
        if uid == _NOT_CONNECTED:
            raise EngineUnavailable(self._engine, f"{what.split()[0]} has no room for another connection now: try again")
        if uid != self._user:
            raise EngineUnavailable(self._engine, f"{what} uid {uid}, not uid {self._user}, who should run it")

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)
