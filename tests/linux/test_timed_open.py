"""What cannot be opened at once keeps nobody waiting, and leaves no descriptor behind."""

import os
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

import pytest

from nsbroker.linux.timed_open import TimedOpener
from tests.world import SLOWNESS, eventually


def null() -> int:
    return os.open(os.devnull, os.O_RDONLY)


def nothing() -> None:
    pass


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Those who wait for it go on at the end, and are seen off."""
    gate = threading.Event()
    before = threading.active_count()
    yield gate
    gate.set()
    eventually(lambda: threading.active_count() == before, "all threads have ended")


def test_what_is_opened_at_once_comes_back_and_an_error_too() -> None:
    def fail() -> NoReturn:
        raise FileNotFoundError

    opener = TimedOpener()
    os.close(opener.open(null, nothing))
    with pytest.raises(FileNotFoundError):
        opener.open(fail, nothing)


def test_what_takes_long_is_given_up_and_closed_when_it_comes_after_all(gate: threading.Event) -> None:
    opener = TimedOpener()

    def late() -> int:
        gate.wait()
        return null()

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TimeoutError):
        opener.open(late, nothing)
    os.close(opener.open(null, nothing))
    gate.set()
    eventually(lambda: len(os.listdir("/proc/self/fd")) == before, "it is closed")


def test_who_asks_again_and_again_makes_others_wait_less_and_less_until_nothing_is_tried(gate: threading.Event) -> None:
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


def test_it_is_opened_with_the_rights_of_the_thread_that_asks() -> None:
    seen: list[int] = []

    def look() -> int:
        seen.append(os.stat("/proc/thread-self/ns/net").st_ino)
        return null()

    os.close(TimedOpener().open(look, nothing))
    assert seen == [os.stat("/proc/thread-self/ns/net").st_ino]
