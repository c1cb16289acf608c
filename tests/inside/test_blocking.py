"""What only the blocking call does: a signal can interrupt it."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from nsbroker.inside.visit import Visit
from nsbroker.namespace import Namespace
from tests.world import PATIENCE


def test_an_interrupted_blocking_call_returns_and_does_not_keep_the_process_alive() -> None:
    code = """
import signal, sys, threading, time
from nsbroker.namespace import Namespace
signal.signal(signal.SIGALRM, signal.default_int_handler)
def sleep():
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    time.sleep(1000)
with Namespace.create("net") as ns:
    try:
        ns.call(sleep)
    except KeyboardInterrupt:
        print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.stdout, done.returncode) == ("interrupted\n", 0), done.stderr


class Interrupted(BaseException):
    """What a signal handler raises."""


def fill_free_numbers() -> list[int]:
    """Open files, which have the numbers of those that were closed last."""
    return [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]


def check_and_close(fds: list[int]) -> None:
    for fd in fds:
        assert os.readlink(f"/proc/self/fd/{fd}") == os.devnull, "closed by somebody else"
        os.close(fd)


def test_a_start_that_is_interrupted_when_the_thread_runs_leaves_the_descriptors_to_it(net: Namespace) -> None:
    running, go_on, finished = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        running.set()
        go_on.wait(PATIENCE)

    def start(run: Callable[[], None]) -> None:
        """Start the thread.  A signal comes while `Thread.start` waits until it runs."""
        threading.Thread(target=run, daemon=True).start()
        running.wait(PATIENCE)
        raise Interrupted

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Interrupted):
        Visit([net], work, (), finished.set).start(start)
    others = fill_free_numbers()
    go_on.set()
    assert finished.wait(PATIENCE)
    check_and_close(others)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_start_that_is_interrupted_before_the_thread_runs_closes_the_descriptors_and_nothing_runs(net: Namespace) -> None:
    late: list[Callable[[], None]] = []

    def start(run: Callable[[], None]) -> None:
        """Be interrupted.  The thread gets a processor only afterwards."""
        late.append(run)
        raise Interrupted

    ran: list[bool] = []
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Interrupted):
        Visit([net], ran.append, (True,), bool).start(start)
    assert len(os.listdir("/proc/self/fd")) == before
    others = fill_free_numbers()
    thread = threading.Thread(target=late[0])
    thread.start()
    thread.join()
    check_and_close(others)
    assert ran == []
