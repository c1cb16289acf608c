"""The limit on added interfaces."""

import pytest

from nsbroker.daemon.limits import added_interfaces
from nsbroker.daemon.limits.added_interfaces import AddedInterfaces
from nsbroker.errors import QuotaExceeded
from tests.world import ALICE, BOB


class Clock:
    """Stands for `time`, because nobody waits for an hour."""

    now = 100_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(added_interfaces, "time", clock)
    return clock


def test_each_user_has_so_many_within_an_hour(clock: Clock) -> None:
    added = AddedInterfaces(2)
    for _ in range(2):
        added.charge(ALICE)
        clock.now += 60
    with pytest.raises(QuotaExceeded, match="interfaces-per-user"):
        added.charge(ALICE)
    added.charge(BOB)
    clock.now += 3600 - 90
    # The first one is older than an hour, the second one is not.
    added.charge(ALICE)
    with pytest.raises(QuotaExceeded):
        added.charge(ALICE)


def test_refusals_do_not_count_and_a_reload_changes_the_limit(clock: Clock) -> None:
    added = AddedInterfaces(0)
    for _ in range(3):
        with pytest.raises(QuotaExceeded):
            added.charge(ALICE)
    added.most = 1
    added.charge(ALICE)


def test_root_has_no_limit() -> None:
    added = AddedInterfaces(0)
    for _ in range(1000):
        added.charge(0)


def test_users_who_came_long_ago_are_forgotten(clock: Clock) -> None:
    added = AddedInterfaces(1)
    for user in range(1, 2000):
        added.charge(user)
    added.most = 0
    with pytest.raises(QuotaExceeded):
        added.charge(3000)
    added.most = 1
    clock.now += 3601
    added.charge(2000)
    assert len(added._by_user) == 1
