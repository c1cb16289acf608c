"""Work at a pace: it pauses again and again, and is not interrupted in between."""

import contextlib
import sys
import time

from nsbroker.daemon.pace import paced


def test_it_pauses_for_longer_than_it_works() -> None:
    start, worked = time.monotonic(), time.thread_time()
    with paced() as step:
        while time.thread_time() - worked < 0.02:
            step()
    # However slow the machine is, it sleeps at least four times as long as it works, but for the last bit of work.
    assert time.monotonic() - start > 0.06


def test_nobody_is_interrupted_sooner_than_the_work_pauses() -> None:
    before = sys.getswitchinterval()
    with contextlib.suppress(RuntimeError), paced():
        assert sys.getswitchinterval() > 0.001
        raise RuntimeError
    assert sys.getswitchinterval() == before
