"""A target that tests of several commands share."""

import pytest

from tests.world import ALICE, Daemon, Sleeper


@pytest.fixture
def target(daemon: Daemon, sleeper: Sleeper) -> str:
    """A process of which ALICE may open two devices, two files, one kind of socket and one namespace."""
    allowed = {"namespaces": ["net"], "sockets": ["inet:stream"], "devices": ["zero", "null"], "files": ["hosts", "net/dev"]}
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["pid:*"], **allowed)
    return f"pid:{sleeper.pid}"
