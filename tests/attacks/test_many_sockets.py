"""A user who has very many sockets made."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

import nsbroker
from tests.world import ALICE, BOB, Daemon, as_user

pytestmark = pytest.mark.root


def make(address: str, count: int) -> Callable[[], float]:
    """Return a function that has `count` sockets made, and returns the seconds that this took."""

    def run() -> float:
        start = time.monotonic()
        with nsbroker.connect(address) as broker:
            for _ in range(count):
                broker.socket("name:blue").close()
        return time.monotonic() - start

    return run


def test_a_user_above_the_limit_waits_and_others_do_not(tmp_path: Path, blue: Path) -> None:
    # One a second, after the first thirty.
    with Daemon(tmp_path, limits="sockets-per-user = 30") as daemon:
        daemon.allow("both", who=[f"user:{ALICE}", f"user:{BOB}"], targets=["name:blue"], sockets=["inet:stream"])
        assert as_user(ALICE, make(daemon.address, 33)) > 2
        # At the same pace, this would take half a minute each.
        assert make(daemon.address, 62)() < 28
        assert as_user(BOB, make(daemon.address, 30)) < 28
