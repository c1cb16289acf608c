"""Asking an engine that has an HTTP API on a Unix socket, and seeing that it is who it should be."""

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
# trio takes an AF_UNIX socket whose listener has no room for connected: then it has no peer.
_NOT_CONNECTED = 2**32 - 1
_Options = Iterable[httpcore2.SOCKET_OPTION] | None


class Answer(NamedTuple):
    """The status and the body of an answer."""

    status: int
    body: bytes


async def get(place: Path, user: int, engine: str, path: str) -> Answer:
    """GET `path` from the server at the socket `place`, which must be `user`'s.

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
                    raise EngineUnavailable(engine, f"answers with more than {_ANSWER_MAX} bytes")
            return Answer(response.status, bytes(body))
    except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
        raise EngineUnavailable(engine, f"{place}: {error or type(error).__name__}") from error


class _Trusted(httpcore2.AsyncNetworkBackend):
    """Connects to a socket of `user`'s only, and to a server that runs as `user`."""

    def __init__(self, user: int, engine: str) -> None:
        self._user = user
        self._engine = engine
        self._backend = httpcore2.TrioBackend()

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: _Options = None
    ) -> httpcore2.AsyncNetworkStream:
        # Held, then looked at, then connected to: a link that somebody puts in its place leads nowhere.
        found = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            facts = os.fstat(found)
            if not stat.S_ISSOCK(facts.st_mode):
                raise EngineUnavailable(self._engine, f"{path} is no socket")
            self._see_user(facts.st_uid, f"{path} belongs to")
            stream = await self._backend.connect_unix_socket(f"/proc/self/fd/{found}", timeout, socket_options)
        except httpcore2.ConnectError as error:
            if isinstance(error.__cause__, ConnectionRefusedError):
                raise error.__cause__ from error
            raise
        finally:
            os.close(found)
        try:
            self._see_user(peer_credentials(stream.get_extra_info("socket")).uid, f"{path} is served by")
        except BaseException:
            await stream.aclose()
            raise
        return stream

    def _see_user(self, uid: int, what: str) -> None:
        if uid == _NOT_CONNECTED:
            raise EngineUnavailable(self._engine, f"{what.split()[0]} has no room for another connection now")
        if uid != self._user:
            raise EngineUnavailable(self._engine, f"{what} uid {uid}, not uid {self._user} who should run it")

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)
