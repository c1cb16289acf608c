"""Running a function inside a namespace on the calling thread."""

import os
import subprocess
import sys
import threading

import pytest

from nsbroker.errors import EnterFailed
from nsbroker.inside import in_place
from nsbroker.namespace import Namespace
from tests.world import PATIENCE


def network() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def test_the_calling_thread_is_inside_and_then_at_home_again(net: Namespace) -> None:
    home = network()
    inside = in_place.call(net, lambda: (network(), threading.get_ident()))
    assert inside == (net.inode, threading.get_ident())
    assert network() == home


def test_other_threads_stay_where_they_are(net: Namespace) -> None:
    home = network()
    asked, answered = threading.Event(), threading.Event()
    seen: list[int] = []

    def look() -> None:
        asked.wait(PATIENCE)
        seen.append(network())
        answered.set()

    thread = threading.Thread(target=look)
    thread.start()

    def ask() -> None:
        asked.set()
        answered.wait(PATIENCE)

    in_place.call(net, ask)
    thread.join()
    assert seen == [home]


def test_an_error_inside_is_raised_at_home(net: Namespace) -> None:
    home = network()

    def fail() -> None:
        raise OSError(1, "no")

    with pytest.raises(OSError, match="no"):
        in_place.call(net, fail)
    assert network() == home


def test_what_cannot_be_entered_is_refused_and_nothing_runs(net: Namespace) -> None:
    home, ran = network(), list[int]()
    with Namespace.current("user") as user, pytest.raises(EnterFailed, match="single-threaded"):
        in_place.call(user, lambda: ran.append(1))
    net.close()
    with pytest.raises(ValueError, match="closed"):
        in_place.call(net, lambda: ran.append(1))
    assert (network(), ran) == (home, [])


CANNOT_GO_BACK = """
import os, sys, threading
from nsbroker.inside import in_place
from nsbroker.namespace import Namespace

def refuse(fd, flag):
    raise PermissionError(1, "Operation not permitted")

in_place.setns = refuse
threading.Thread(target=threading.Event().wait, daemon=True).start()
try:
    with Namespace.create("net") as ns:
        in_place.call(ns, lambda: print("inside", flush=True))
finally:
    print("still there", flush=True)
"""


def test_a_process_that_cannot_go_back_ends_at_once() -> None:
    """The error is forced: the kernel always lets a thread back that could leave."""
    done = subprocess.run([sys.executable, "-c", CANNOT_GO_BACK], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (os.EX_OSERR, "inside\n")
    assert done.stderr == "nsbroker: the thread could not go back to its own namespace, so the process ends\n"
