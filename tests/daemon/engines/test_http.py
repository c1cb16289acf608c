"""The socket of an engine that has an HTTP API: it must be there, and belong to the right user."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from nsbroker.daemon.engines import http
from nsbroker.errors import EngineUnavailable
from tests.daemon.engines.test_registry import docker, find, inspected, says, server


async def test_a_missing_unserved_or_replaced_socket_makes_the_engine_unavailable(path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="not found on this host: no /run/fake-"):
        await find(docker(path), "docker:web")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.close()
    with pytest.raises(EngineUnavailable, match="refused"):
        await find(docker(path), "docker:web")
    path.unlink()
    path.write_text("")
    with pytest.raises(EngineUnavailable, match="is no socket"):
        await find(docker(path), "docker:web")
    path.unlink()
    path.symlink_to("/run/elsewhere.sock")
    with pytest.raises(EngineUnavailable):
        await find(docker(path), "docker:web")
    path.unlink()


@pytest.mark.root
async def test_a_socket_that_a_user_owns_is_not_trusted_as_roots(path: Path) -> None:
    with server(path, says(inspected(os.getpid()))):
        os.chown(path, 4001, 4001)
        with pytest.raises(EngineUnavailable, match="belongs to uid 4001, not uid 0"):
            await find(docker(path), "docker:web")


@pytest.mark.root
async def test_a_socket_whose_queue_is_full_makes_the_engine_unavailable(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))
        with pytest.raises(EngineUnavailable, match="has no room for another connection now: try again"):
            await http.get(path, os.geteuid(), "docker", "/")
    path.unlink()


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", b"3\r\nllo\r\n0\r\n\r\n"],
        [b"HTTP/1.0 200 OK\r\n\r\nhel", b"lo"],
        [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", b"Content-Length: 5\r\n\r\nhello and more"],
    ],
    ids=["whole", "chunked", "until the end", "after another response"],
)
async def test_the_body_is_read_however_it_is_sent(path: Path, pieces: list[bytes]) -> None:
    with server(path, _send(pieces)):
        assert await http.get(path, os.geteuid(), "docker", "/x") == (200, b"hello")


def _send(pieces: list[bytes]) -> Callable[[socket.socket, bytes], None]:
    def answer(sock: socket.socket, request: bytes) -> None:
        assert request.startswith(b"GET /x HTTP/1.1\r\n")
        for piece in pieces:
            sock.sendall(piece)

    return answer
