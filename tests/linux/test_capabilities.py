"""The effective capabilities of a thread, in both halves of the sets."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from nsbroker.linux import capabilities
from nsbroker.linux.capabilities import ALL, CAP_NET_RAW, CAP_SYS_ADMIN, limited_to, use_only
from nsbroker.linux.libc import check, libc

# The highest one of Linux 5.9, which is in the second half.
CAP_CHECKPOINT_RESTORE = 1 << 40


def read(name: str) -> int:
    """Return a capability set of the calling thread, such as CapEff, from /proc/PID/status."""
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")), 16)


@contextmanager
def all_again() -> Iterator[None]:
    try:
        yield
    finally:
        use_only(ALL)


@pytest.mark.parametrize("wanted", [0, CAP_NET_RAW, CAP_CHECKPOINT_RESTORE, CAP_NET_RAW | CAP_CHECKPOINT_RESTORE])
def test_a_thread_has_only_what_it_wants_and_can_have_all_again(wanted: int) -> None:
    permitted, inheritable = read("CapPrm"), read("CapInh")
    with all_again():
        use_only(wanted)
        assert read("CapEff") == permitted & wanted
        assert (read("CapPrm"), read("CapInh")) == (permitted, inheritable)
    assert read("CapEff") == permitted


def test_what_is_not_permitted_is_left_out() -> None:
    found: list[int] = []

    def run() -> None:
        drop_permitted(CAP_NET_RAW)
        use_only(CAP_NET_RAW | CAP_SYS_ADMIN)
        found.append(read("CapEff"))

    in_thread(run)
    assert found == [read("CapPrm") & CAP_SYS_ADMIN]


def test_one_thread_changes_no_other() -> None:
    before = read("CapEff")
    in_thread(lambda: use_only(0))
    assert read("CapEff") == before


def test_after_the_block_all_are_there_again() -> None:
    before = read("CapEff")
    with limited_to(CAP_SYS_ADMIN):
        assert read("CapEff") == before & CAP_SYS_ADMIN
    assert read("CapEff") == before


def test_after_a_failure_in_the_block_all_are_there_again() -> None:
    before = read("CapEff")
    with suppress(ZeroDivisionError), limited_to(0):
        raise ZeroDivisionError
    assert read("CapEff") == before


def in_thread(run: Callable[[], object]) -> None:
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def drop_permitted(dropped: int) -> None:
    """Remove capabilities of the calling thread for good."""
    sets = capabilities._Sets()
    check(libc.capget(capabilities._HEADER, sets))
    for index in (0, 1, 2):
        sets[index] &= ~dropped
    check(libc.capset(capabilities._HEADER, sets))
