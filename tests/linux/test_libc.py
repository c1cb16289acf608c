"""What is free in the heaps of the C library goes back to the kernel."""

import os
from pathlib import Path

import pytest

from nsbroker.linux.libc import libc, release_free_memory


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(not hasattr(libc, "malloc_trim"), reason="left out: this C library has no malloc_trim(3)")
def test_memory_that_is_free_between_what_is_used_is_released() -> None:
    # Python gets objects of more than 512 bytes from the C library, which keeps what is freed below something that is used.
    blocks = [bytes(4000) for _ in range(10_000)]
    used = blocks[::100]
    del blocks
    before = resident()
    release_free_memory()
    assert before - resident() > 20 * 1024 * 1024
    assert len(used) == 100
