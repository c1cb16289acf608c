"""What tests of several commands share: a target, a wire into a network, a folder for every user."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.capture.wire import wire
from tests.world import ALICE, Daemon, Sleeper


@pytest.fixture
def target(daemon: Daemon, sleeper: Sleeper) -> str:
    """A process of which ALICE may open two devices, two files, one kind of socket and one namespace."""
    allowed = {"namespaces": ["net"], "sockets": ["inet:stream"], "devices": ["zero", "null"], "files": ["hosts", "net/dev"]}
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["pid:*"], **allowed)
    return f"pid:{sleeper.pid}"


@pytest.fixture
def feed(daemon: Daemon, blue: Path) -> Iterator[None]:
    """A wire that leads into name:blue, from which ALICE may capture, and do nothing else there."""
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["name:blue"], sockets=["packet:raw"])
    with wire("blue"):
        yield


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can use, unlike those of pytest."""
    with tempfile.TemporaryDirectory(dir="/run") as place:
        Path(place).chmod(0o777)
        yield Path(place)
