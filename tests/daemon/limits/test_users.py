"""The user to whom a uid is counted, from files in the format of /etc/subuid."""

import bisect
import os
from pathlib import Path
from typing import Any

import pytest

from nsbroker.daemon.limits.users import SubordinateUids

FILE = """\
4001:200000:65536
root:300000:65536
nobody-of-that-name:400000:65536
# a comment
4002:not-a-number:1
4002
4002:500000:2
"""


@pytest.fixture
def users(tmp_path: Path) -> SubordinateUids:
    (tmp_path / "subuid").write_text(FILE)
    return SubordinateUids(tmp_path / "subuid")


@pytest.mark.parametrize(
    ("uid", "user"),
    [
        (0, 0),
        (4001, 4001),
        (199_999, 199_999),
        (200_000, 4001),
        (265_535, 4001),
        (265_536, 265_536),
        (400_000, 400_000),
        (500_001, 4002),
        (500_002, 500_002),
    ],
)
def test_a_subordinate_uid_is_counted_to_its_user(users: SubordinateUids, uid: int, user: int) -> None:
    assert users.user_of(uid) == user


def test_the_innermost_of_nested_ranges_counts(tmp_path: Path) -> None:
    (tmp_path / "subuid").write_text("4001:1000:1000\n4002:1100:10\n4003:1200:10\n")
    users = SubordinateUids(tmp_path / "subuid")
    assert [users.user_of(uid) for uid in (999, 1000, 1105, 1110, 1205, 1500, 1999, 2000)] == [
        999, 4001, 4002, 4001, 4003, 4001, 4001, 2000,
    ]  # fmt: skip


def test_the_subordinate_uids_of_root_are_one_user_and_not_root(users: SubordinateUids) -> None:
    assert users.user_of(300_000) == users.user_of(365_535) == 300_000


def test_a_changed_file_is_read_again_and_a_missing_one_gives_no_ranges(users: SubordinateUids, tmp_path: Path) -> None:
    assert users.user_of(200_000) == 4001
    (tmp_path / "new").write_text("4003:200000:65536\n")
    os.replace(tmp_path / "new", tmp_path / "subuid")
    assert users.user_of(200_000) == 4003
    (tmp_path / "subuid").unlink()
    assert users.user_of(200_000) == 200_000


def test_while_another_thread_reads_a_change_a_thread_goes_on_with_what_it_has(
    users: SubordinateUids, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other thread's step is made in the middle of the search, because no test can make two threads meet there."""
    search: Any = bisect.bisect_right

    def change_and_search(*args: Any, **options: Any) -> int:
        place: int = search(*args, **options)
        monkeypatch.setattr(bisect, "bisect_right", search)
        (tmp_path / "subuid").write_text("4003:100000:400000\n")
        assert users.user_of(200_000) == 4003
        return place

    monkeypatch.setattr(bisect, "bisect_right", change_and_search)
    assert users.user_of(200_000) == 4001
    assert users.user_of(200_000) == 4003
