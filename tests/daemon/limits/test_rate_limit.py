"""Rate limits for audit records: how many are written, which are counted, and how long a user is delayed."""

from types import SimpleNamespace

import pytest

from nsbroker.daemon.limits import rate_limit
from nsbroker.daemon.limits.rate_limit import MOST, REFILL_TIME, WINDOW, RateLimit, TokenBucket
from nsbroker.daemon.limits.users import ROOT
from tests.world import ALICE, BOB


class Clock:
    """The time for the module under test.  It stands still until a test moves it."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rate_limit, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def admitted(limit: RateLimit, uid: int, count: int) -> int:
    return sum(limit.admits(uid) for _ in range(count))


def test_each_user_has_so_many_records_in_a_window(clock: Clock) -> None:
    limit = RateLimit()
    assert admitted(limit, ALICE, MOST + 30) == MOST
    assert admitted(limit, BOB, MOST) == MOST
    clock.now += WINDOW - 0.1
    assert admitted(limit, ALICE, 1) == 0
    clock.now += 0.1
    assert admitted(limit, ALICE, MOST + 1) == MOST


def test_suppressed_records_are_reported_once_after_the_window(clock: Clock) -> None:
    limit = RateLimit()
    admitted(limit, ALICE, MOST + 30)
    admitted(limit, BOB, MOST)
    assert list(limit.end_windows()) == []
    clock.now += WINDOW
    assert list(limit.end_windows()) == [(ALICE, 30)]
    assert list(limit.end_windows()) == []


def test_suppressed_records_of_a_window_that_a_new_one_followed_are_not_forgotten(clock: Clock) -> None:
    limit = RateLimit()
    for suppressed in (30, 12):
        admitted(limit, ALICE, MOST + suppressed)
        clock.now += WINDOW
    assert list(limit.end_windows()) == [(ALICE, 42)]


def test_at_the_end_of_the_broker_windows_that_are_not_over_are_reported_too(clock: Clock) -> None:
    limit = RateLimit()
    admitted(limit, ALICE, MOST + 7)
    assert list(limit.end_windows(everyone=True)) == [(ALICE, 7)]


def test_a_user_above_the_limit_waits_until_the_bucket_has_room_again(clock: Clock) -> None:
    bucket = TokenBucket(10)
    for _ in range(10):
        bucket.charge(ALICE)
    assert bucket.delay(ALICE) == 0
    bucket.charge(ALICE)
    assert bucket.delay(ALICE) == pytest.approx(REFILL_TIME / 10)
    assert bucket.delay(BOB) == 0
    clock.now += REFILL_TIME / 10
    assert bucket.delay(ALICE) == pytest.approx(0)


def test_users_whose_bucket_is_full_again_take_no_memory(clock: Clock) -> None:
    bucket = TokenBucket(10)
    for user in range(1, 2001):
        bucket.charge(user)
    assert len(bucket._full) == 2000, "nobody is forgotten who is not yet at rest"
    clock.now += REFILL_TIME
    bucket.charge(5000)
    assert list(bucket._full) == [5000]


def test_root_never_waits(clock: Clock) -> None:
    bucket = TokenBucket(10)
    for _ in range(100):
        bucket.charge(ROOT)
    assert bucket.delay(ROOT) == 0
