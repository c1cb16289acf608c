"""WhoAmI and GetStatus."""

import os

import pytest

from nsbroker.client.blocking import connect
from tests.world import ALICE, Daemon, as_user


@pytest.mark.root
def test_who_am_i_is_what_the_kernel_says(daemon: Daemon) -> None:
    def ask() -> tuple[int, int, list[int], bool, bool]:
        with connect(daemon.address) as broker:
            peer = broker.who_am_i()
        return peer.uid, peer.gid, peer.groups, peer.pid == os.getpid(), peer.anonymous

    assert as_user(ALICE, ask, groups=[77, 78]) == (ALICE, ALICE, [77, 78, ALICE], True, False)


def test_status_counts(daemon: Daemon) -> None:
    with daemon.connect() as broker, daemon.connect():
        broker.open(f"pid:{os.getpid()}", "net").close()
        status = broker.status()
    assert (status.rules, status.connections, status.file_descriptors) == (2, 2, 1)
    assert status.calls is not None
    assert status.calls >= 2
    assert set(status.features) >= {"peer_pidfd", "pidfd_info"}
