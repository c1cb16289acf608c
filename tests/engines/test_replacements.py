"""Containers that are replaced while processes inside ask the broker: see `replacements`, which does the work."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.linux.features import features
from tests.engines.conftest import started
from tests.engines.real import Crun

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not features().peer_pidfd, reason="before Linux 6.5 the kernel does not show which process connected"),
]

COUNT = 8
"""`make test-replacements` does a thousand."""


@pytest.fixture
def crun() -> Iterator[None]:
    for _ in started(Crun):
        yield


def test_no_peer_is_taken_for_one_in_another_container_whatever_replaces_it(crun: None) -> None:
    own_pids = Path(__file__).parent.parent / "in-own-pids"
    command = [str(own_pids), sys.executable, "-m", "tests.engines.replacements", str(COUNT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    words = done.stdout.split()
    assert (words[:2], words[-2:]) == ([str(COUNT), "replacements,"], ["none", "wrong"])
    if Path("/proc/sys/kernel/ns_last_pid").exists():
        assert int(words[2]) > 0, "no number of a process was given again"
