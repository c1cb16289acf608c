"""Starting threads."""

import os
import sys
import threading
from pathlib import Path

import pytest

from nsbroker.linux.threads import start_thread
from tests.world import eventually


@pytest.fixture
def undisturbed() -> object:
    """Let no other thread run as long as this one does not wait."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(60)
    yield
    sys.setswitchinterval(before)


def test_it_does_not_wait_until_the_thread_runs(undisturbed: None) -> None:
    ran: list[int] = []
    start_thread("append", ran.append, 1)
    so_far = [*ran]
    eventually(lambda: ran == [1], "the thread runs")
    assert so_far == []


def test_the_thread_is_another_one_with_a_name_and_ends() -> None:
    found: list[tuple[int, str]] = []
    start_thread("a name", lambda: found.append((threading.get_native_id(), Path("/proc/thread-self/comm").read_text())))
    eventually(lambda: found != [], "the thread runs")
    [(number, name)] = found
    assert number != threading.get_native_id()
    assert name == "a name\n"
    eventually(lambda: not os.path.exists(f"/proc/self/task/{number}"), "the thread ends")
