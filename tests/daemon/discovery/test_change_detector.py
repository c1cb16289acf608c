"""When the change detector wakes a watcher, and what it has open.  `tests/daemon/methods/test_watch.py` has real changes."""

import errno
import os
from typing import Any

import pytest
import trio
import trio.testing

from nsbroker.daemon.discovery.change_detector import ChangeDetector
from tests.snapshot import Snapshot


@pytest.mark.usefixtures("autojump_clock")
async def test_who_has_not_seen_the_last_change_does_not_wait_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another watcher, who has seen all changes, waits already.  Whether something changes is made up: nothing ever does again."""
    detector = ChangeDetector()
    monkeypatch.setattr(detector, "_check", lambda _: None)
    monkeypatch.setattr(detector, "_number", 5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(detector.wait, 5, 0.0)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(60):
            await detector.wait(4, 0.0)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("step", ["open", "listdir"])
def test_when_a_file_cannot_be_opened_nothing_stays_open(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail_at_own_files(path: str, *arguments: Any) -> Any:
        if path.startswith("/proc/self"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, *arguments)

    real = getattr(os, step)
    detector = ChangeDetector()
    before = Snapshot.of(os.getpid()).fds
    with monkeypatch.context() as patched:
        patched.setattr(os, step, fail_at_own_files)
        with pytest.raises(OSError, match="Too many open files"), detector:
            pass
    assert Snapshot.of(os.getpid()).fds == before
    with detector:
        assert len(Snapshot.of(os.getpid()).fds) == len(before) + 2
    assert Snapshot.of(os.getpid()).fds == before
