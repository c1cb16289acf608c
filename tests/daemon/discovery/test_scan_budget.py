"""How much a pass looks at of one user's."""

import itertools
import os

import pytest

from nsbroker.daemon.discovery import scan_budget
from nsbroker.daemon.discovery.scan_budget import Shares
from tests.world import ALICE, BOB, Sleeper


@pytest.mark.root
def test_the_first_few_are_free_and_what_is_beyond_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_budget, "_FREE", 10)
    monkeypatch.setattr(scan_budget, "_OF_A_USER", 100)
    with Sleeper(uid=ALICE) as one, Sleeper(uid=ALICE) as another, Sleeper(uid=BOB) as other:
        share = Shares()

        def looked_at(pid: int, looks: int = 1) -> int:
            return sum(1 for _ in share.limited(pid, looks, itertools.repeat(None, 1000)))

        assert looked_at(one.pid) == 110
        assert looked_at(another.pid) == 10
        # Others have theirs, root more than anyone makes use of.
        assert looked_at(other.pid, looks=5) == 22
        assert looked_at(os.getpid()) == 1000
        assert not share.drawing(one.pid, 1)()
        assert share.drawing(os.getpid(), 1)()
