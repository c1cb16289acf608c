"""The root of a container changes its /dev while the broker opens a device below it."""

import concurrent.futures
import ctypes
import itertools
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.errors import NoSuchDevice
from nsbroker.linux.libc import check, libc
from tests.world import Daemon, Sleeper

pytestmark = pytest.mark.root

_RENAME_EXCHANGE = 2
FLIPS = 100_000


@pytest.fixture
def dev() -> Iterator[tuple[str, Path]]:
    """A process with its own /dev, in which tests put what an attacker wants opened.  Yields the target and the path of /dev."""
    with Sleeper(unshare="--mount --propagation private") as process:
        mount = ["mount", "-t", "tmpfs", "-o", "mode=755", "dev", "/dev"]
        subprocess.run(["nsenter", "--mount", "--target", str(process.pid), *mount], check=True)
        yield f"pid:{process.pid}", Path(f"/proc/{process.pid}/root/dev")


def node(path: Path, major: int, minor: int) -> None:
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(major, minor))


def flip(left: Path, right: Path, enough: threading.Event) -> None:
    """Exchange two names again and again, an even number of times: FLIPS times, and then until `enough` is set."""
    names = os.fsencode(left), os.fsencode(right)
    done = 0
    while done < FLIPS or done % 2 or not enough.is_set():
        check(libc.renameat2(ctypes.c_int(-100), names[0], ctypes.c_int(-100), names[1], ctypes.c_uint(_RENAME_EXCHANGE)))
        done += 1


def open_while_flipped(daemon: Daemon, target: str, pairs: list[tuple[Path, Path]], *names: str) -> None:
    """Open devices while each pair is flipped, and check each.  At the end, some were opened and others were refused."""
    enough = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(len(pairs)) as flipping:
        flips = [flipping.submit(flip, *pair, enough) for pair in pairs]
        try:
            _open_until_all_are_done(daemon, target, flips, enough, *names)
        finally:
            enough.set()
        for one in flips:
            one.result()


def _open_until_all_are_done(
    daemon: Daemon, target: str, flips: "list[concurrent.futures.Future[None]]", enough: threading.Event, *names: str
) -> None:
    opened = refused = 0
    with daemon.connect() as broker:
        for name in itertools.cycle(names):
            if all(one.done() for one in flips):
                break
            # On a slow machine there may be few calls.
            if opened and refused:
                enough.set()
            try:
                with broker.device(target, name, os.O_RDWR) as file:
                    facts = os.fstat(file.fileno())
                    assert (os.major(facts.st_rdev), os.minor(facts.st_rdev)) in ((1, 3), (10, 200))
                    opened += 1
            except NoSuchDevice:
                refused += 1


def test_a_link_that_is_flipped_a_hundred_thousand_times_leads_nowhere(daemon: Daemon, dev: tuple[str, Path]) -> None:
    """Two names are flipped at once: the last component of a path, and a folder on the way."""
    target, place = dev
    node(place / "null", 1, 3)
    node(place / "mem", 1, 1)
    (place / "evil").symlink_to("mem")
    for folder, major, minor in (("net", 10, 200), ("other", 1, 1)):
        (place / folder).mkdir()
        node(place / folder / "tun", major, minor)
    (place / "way").symlink_to("other")
    before = daemon.snapshot()
    pairs = [(place / "null", place / "evil"), (place / "net", place / "way")]
    open_while_flipped(daemon, target, pairs, "null", "net/tun")
    with daemon.connect() as broker:
        # The number of flips is even, so everything is back in its place.
        broker.device(target, "null").close()
        broker.device(target, "net/tun").close()
    daemon.settles_at(before)


def test_a_device_that_is_exchanged_for_another_is_never_the_other(daemon: Daemon, dev: tuple[str, Path]) -> None:
    target, place = dev
    node(place / "null", 1, 3)
    node(place / "mem", 1, 1)
    open_while_flipped(daemon, target, [(place / "null", place / "mem")], "null")
