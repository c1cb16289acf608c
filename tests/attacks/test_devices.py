"""The root of a container changes its /dev while the broker opens a device below it."""

import concurrent.futures
import ctypes
import itertools
import os
import stat
import subprocess
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


def flip(left: Path, right: Path) -> None:
    """Exchange two names again and again."""
    names = os.fsencode(left), os.fsencode(right)
    for _ in range(FLIPS):
        check(libc.renameat2(ctypes.c_int(-100), names[0], ctypes.c_int(-100), names[1], ctypes.c_uint(_RENAME_EXCHANGE)))


def opens_while(flips: "list[concurrent.futures.Future[None]]", daemon: Daemon, target: str, *names: str) -> tuple[int, int]:
    """Open devices until the flipping is over, and check each.  Returns how many were opened and how many were refused."""
    opened = refused = 0
    with daemon.connect() as broker:
        for name in itertools.cycle(names):
            if all(one.done() for one in flips):
                break
            try:
                with broker.device(target, name, os.O_RDWR) as file:
                    facts = os.fstat(file.fileno())
                    assert (os.major(facts.st_rdev), os.minor(facts.st_rdev)) in ((1, 3), (10, 200))
                    opened += 1
            except NoSuchDevice:
                refused += 1
    return opened, refused


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
    with concurrent.futures.ThreadPoolExecutor(2) as flipping:
        flips = [
            flipping.submit(flip, place / "null", place / "evil"),
            flipping.submit(flip, place / "net", place / "way"),
        ]
        opened, refused = opens_while(flips, daemon, target, "null", "net/tun")
        for one in flips:
            one.result()
    assert opened > 0
    assert refused > 0
    with daemon.connect() as broker:
        # The number of flips is even, so everything is back in its place.
        broker.device(target, "null").close()
        broker.device(target, "net/tun").close()
    daemon.settles_at(before)


def test_a_device_that_is_exchanged_for_another_is_never_the_other(daemon: Daemon, dev: tuple[str, Path]) -> None:
    target, place = dev
    node(place / "null", 1, 3)
    node(place / "mem", 1, 1)
    with concurrent.futures.ThreadPoolExecutor(1) as flipping:
        flips = [flipping.submit(flip, place / "null", place / "mem")]
        opened, refused = opens_while(flips, daemon, target, "null")
        flips[0].result()
    assert opened > 0
    assert refused > 0
