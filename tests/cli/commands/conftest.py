"""A target that tests of several commands share."""

import pytest

from tests.world import ALICE, Daemon, Sleeper


@pytest.fixture
def target(daemon: Daemon, sleeper: Sleeper) -> str:
    """A process whose two devices, one kind of socket and one namespace ALICE may open."""
    daemon.allow(
        "alice", who=[f"user:{ALICE}"], targets=["pid:*"], namespaces=["net"], sockets=["inet:stream"], devices=["zero", "null"]
    )
    return f"pid:{sleeper.pid}"
