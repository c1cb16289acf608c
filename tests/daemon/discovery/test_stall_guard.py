"""Which processes a scan skips after a scan has stalled, and for how long."""

import pytest

from nsbroker.daemon.discovery import stall_guard
from nsbroker.daemon.discovery.stall_guard import Progress, Stalled, StallGuard
from tests.world import ALICE, BOB

USERS = {10: ALICE, 11: ALICE, 20: BOB, 30: 0, 31: 0}
SUBORDINATE = 200_000
GONE = 40


@pytest.fixture(autouse=True)
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up processes.  The real ones of other users would need root, and all users of a user namespace are one."""
    monkeypatch.setattr(stall_guard, "real_user", lambda pid: USERS.get(pid, -1))


def skipped(guard: StallGuard) -> list[int]:
    return [pid for pid in (*USERS, GONE) if guard.skips(pid)]


@pytest.mark.parametrize(("blamed", "left_out"), [(10, [10, 11]), (20, [20]), (30, [30]), (GONE, [GONE])])
def test_all_processes_of_a_user_are_skipped_but_of_root_only_the_one(blamed: int, left_out: list[int]) -> None:
    guard = StallGuard()
    whom = guard.blame(blamed)
    assert skipped(guard) == left_out
    guard.forgive(whom)
    assert skipped(guard) == []


def test_processes_with_subordinate_uids_are_skipped_with_those_of_their_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall_guard, "user_of", lambda uid: ALICE if uid >= SUBORDINATE else uid)
    monkeypatch.setattr(stall_guard, "real_user", lambda pid: {50: SUBORDINATE, 51: SUBORDINATE + 1, **USERS}.get(pid, -1))
    guard = StallGuard()
    for blamed in (50, 10):
        whom = guard.blame(blamed)
        assert [pid for pid in (50, 51, *USERS) if guard.skips(pid)] == [50, 51, 10, 11]
        guard.forgive(whom)
    assert skipped(guard) == []


def test_a_user_who_stalled_two_scans_is_skipped_until_both_threads_are_free() -> None:
    guard = StallGuard()
    first, second = Progress(guard), Progress(guard)
    for scan, pid in ((first, 10), (second, 11)):
        assert scan.may_look(pid)
    first.give_up()
    second.give_up()
    first.end()
    assert skipped(guard) == [10, 11]
    second.end()
    assert skipped(guard) == []


def test_a_scan_that_was_given_up_ends_at_its_next_step_and_the_next_scan_skips_the_user() -> None:
    guard = StallGuard()
    scan = Progress(guard)
    assert scan.may_look(20)
    assert scan.may_look(10)
    scan.give_up()
    with pytest.raises(Stalled):
        scan.may_look(20)
    after = Progress(guard)
    assert [pid for pid in USERS if after.may_look(pid)] == [20, 30, 31]
    assert (after.pid, after.count) == (31, 3)


def test_nobody_is_blamed_for_a_scan_that_has_not_begun_or_has_ended() -> None:
    guard = StallGuard()
    waiting, ended = Progress(guard), Progress(guard)
    waiting.give_up()
    assert ended.may_look(10)
    ended.end()
    ended.give_up()
    assert skipped(guard) == []
    assert waiting.may_look(10)
