"""WhoAmI and GetStatus."""

import os
from pathlib import Path

import msgspec
import pytest

from nsbroker.client.blocking import connect
from nsbroker.errors import NoSuchTarget, QuotaExceeded
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


def test_status_counts_calls_by_method_verdicts_and_durations(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        for _ in range(3):
            broker.open(f"pid:{os.getpid()}", "net").close()
        with pytest.raises(NoSuchTarget):
            broker.open("name:missing", "net")
        broker.list(["net"])
        status = broker.status()
    assert status.calls_by_method == {"Open": 4, "List": 1, "GetStatus": 1}
    assert status.calls == 6
    assert status.verdicts == {"allowed": 4, "failed": 1}
    assert status.waiting_calls is not None
    # Only List was not answered at once.
    assert sum(status.waiting_calls.counts) == 1
    assert status.waiting_calls.sum > 0
    assert status.limits_reached == {}


@pytest.mark.root
def test_status_counts_the_limits_that_were_reached(tmp_path: Path) -> None:
    with Daemon(tmp_path, limits="held-per-user = 1\nconnections-per-user = 1") as daemon:

        def reach() -> list[str]:
            limits = []
            with connect(daemon.address) as broker:
                broker.create(["net"], name="first").namespaces.popitem()[1].close()
                for call in (lambda: broker.create(["net"], name="second"), connect(daemon.address).who_am_i):
                    try:
                        call()
                    except QuotaExceeded as error:
                        limits.append(error.limit)
            return limits

        daemon.allow("alice", who=[f"user:{ALICE}"], targets=["name:*"], create=["net"], hold=["net"])
        limits = as_user(ALICE, reach)
        with daemon.connect() as broker:
            assert broker.status().limits_reached == dict.fromkeys(limits, 1)
        assert limits == ["held-per-user", "connections-per-user"]


@pytest.mark.root
def test_others_than_root_see_no_numbers_of_others(daemon: Daemon) -> None:
    def ask() -> dict[str, object]:
        with connect(daemon.address) as broker:
            return msgspec.to_builtins(broker.status())  # type: ignore[no-any-return]  # a dict, as the struct

    assert set(as_user(ALICE, ask)) == {"version", "features", "rules", "loaded", "heldDurable"}
