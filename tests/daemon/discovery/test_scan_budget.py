"""How much a scan looks at for one user."""

import itertools
import os

import pytest

from nsbroker.daemon.discovery import scan_budget
from nsbroker.daemon.discovery.scan_budget import ScanBudget
from tests.world import ALICE, BOB, Sleeper


@pytest.mark.root
def test_the_first_few_are_free_and_the_rest_is_charged_to_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_budget, "_FREE_LOOKS", 10)
    monkeypatch.setattr(scan_budget, "_LOOKS_PER_USER", 100)
    with Sleeper(uid=ALICE) as one, Sleeper(uid=ALICE) as another, Sleeper(uid=BOB) as other:
        budget = ScanBudget()

        def looked_at(pid: int, looks: int = 1) -> int:
            return sum(1 for _ in budget.limited(pid, looks, itertools.repeat(None, 1000)))

        assert looked_at(one.pid) == 110
        assert looked_at(another.pid) == 10
        # Other users have budgets of their own, and root has more than anyone uses.
        assert looked_at(other.pid, looks=5) == 22
        assert looked_at(os.getpid()) == 1000
        assert not budget.drawing(one.pid, 1)()
        assert budget.drawing(os.getpid(), 1)()
