"""What only the blocking call does: a signal can interrupt it."""

import subprocess
import sys

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
