"""Opening with a timeout: callers do not wait for long, and no descriptor is left open."""

import os
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

import pytest

from nsbroker.linux import timed_open
from nsbroker.linux.timed_open import TimedOpener
from tests.world import PATIENCE, SLOWNESS, eventually


def null() -> int:
    return os.open(os.devnull, os.O_RDONLY)


def nothing() -> None:
    pass


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that open something without waiting: on a busy machine, it may take a while until its thread runs."""
    monkeypatch.setattr(timed_open, "_TIMEOUT", PATIENCE)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event that is set at the end of the test; the fixture then waits until all threads have ended."""
    gate = threading.Event()
    before = threading.active_count()
    yield gate
    gate.set()
    # An idle thread of an earlier test may have ended meanwhile, too.
    eventually(lambda: threading.active_count() <= before, "all threads have ended")


def test_the_fd_is_returned_and_an_error_is_raised(unhurried: None) -> None:
    def fail() -> NoReturn:
        raise FileNotFoundError

    opener = TimedOpener()
    os.close(opener.open(null, nothing))
    with pytest.raises(FileNotFoundError):
        opener.open(fail, nothing)


def test_an_open_that_takes_too_long_times_out_and_its_fd_is_closed_later(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    opener = TimedOpener()

    def late() -> int:
        gate.wait()
        return null()

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TimeoutError):
        opener.open(late, nothing)
    with monkeypatch.context() as patch:
        patch.setattr(timed_open, "_TIMEOUT", PATIENCE)
        os.close(opener.open(null, nothing))
    gate.set()
    eventually(lambda: len(os.listdir("/proc/self/fd")) == before, "the late descriptor is closed")


def test_after_many_timeouts_the_wait_is_shorter_and_finally_nothing_is_started(gate: threading.Event) -> None:
    opener = TimedOpener()
    refused: list[None] = []

    def late() -> int:
        gate.wait()
        return null()

    start = time.monotonic()
    for _ in range(100):
        with pytest.raises(TimeoutError):
            opener.open(late, lambda: refused.append(None))
    assert time.monotonic() - start < 3 * SLOWNESS
    assert len(refused) == 36


def test_when_no_thread_can_be_started_the_caller_can_clean_up() -> None:
    given_up: list[None] = []
    # No address space has room for such a stack.
    before = threading.stack_size(2**60)
    try:
        with pytest.raises(TimeoutError, match="no thread can be started"):
            TimedOpener().open(null, lambda: given_up.append(None))
    finally:
        threading.stack_size(before)
    assert given_up == [None]


def test_an_open_whose_thread_gets_no_processor_is_waited_for(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can take all processors from a thread at will, so what the kernel shows of the thread is made up."""
    looks: list[int] = []

    def runs(tid: int) -> bool:
        looks.append(tid)
        if len(looks) == 3:
            gate.set()
        return True

    def open_late() -> int:
        gate.wait()
        return null()

    monkeypatch.setattr(timed_open, "_TIMEOUT", 0.01)
    monkeypatch.setattr(timed_open, "_BUSY_MAX", PATIENCE)
    monkeypatch.setattr(timed_open, "thread_runs", runs)
    os.close(TimedOpener().open(open_late, nothing))
    assert len(looks) >= 3


def test_the_function_runs_in_the_namespaces_of_the_calling_thread(unhurried: None) -> None:
    seen: list[int] = []

    def look() -> int:
        seen.append(os.stat("/proc/thread-self/ns/net").st_ino)
        return null()

    os.close(TimedOpener().open(look, nothing))
    assert seen == [os.stat("/proc/thread-self/ns/net").st_ino]
