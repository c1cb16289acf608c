"""What only the blocking call does: a signal can interrupt it."""

import subprocess
import sys
import time


def test_an_interrupted_blocking_call_returns_and_does_not_keep_the_process_alive() -> None:
    code = """
import signal, sys, threading, time
from nsbroker.namespace import Namespace
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.2)
with Namespace.create("net") as ns:
    try:
        ns.call(time.sleep, 1000)
    except KeyboardInterrupt:
        print("interrupted")
"""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=20)
    assert (done.stdout, done.returncode) == ("interrupted\n", 0), done.stderr
    assert time.monotonic() - start < 10
