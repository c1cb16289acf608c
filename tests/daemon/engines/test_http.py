"""The socket of an engine that has an HTTP API: it must be there, and belong to the right user."""

import os
import socket
from pathlib import Path

import pytest

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
