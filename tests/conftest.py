"""What every test gets: a private host, and a look at what it left behind."""

import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests import prefork
from tests.world import Daemon, Sleeper, Snapshot, named_network

# The checkout may belong to somebody else.
hypothesis.settings.register_profile("nsbroker", database=None, deadline=None)
hypothesis.settings.load_profile("nsbroker")

_TESTS = Path(__file__).parent
_CHECKOUT = _TESTS.parent
_WITHOUT_RIGHTS = ("cli", "client", "conduit", "inside", "varlink")


def pytest_configure() -> None:
    """However pytest was started: tests run on a private host."""
    if "NSBROKER_PRIVATE_HOST" not in os.environ:
        user = [] if os.geteuid() == 0 else ["--user"]
        script = str(_CHECKOUT / "tests/private-host")
        os.execv(script, [script, *user, sys.executable, "-m", "pytest", *sys.argv[1:]])
    # A shell starts what runs in the background with SIGINT ignored, and every program that a test starts would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Some tests hold thousands of namespaces open; the usual soft limit is 1024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes no rights is the same whoever runs it."""
    for item in items:
        if item.path.relative_to(_TESTS).parts[0] in _WITHOUT_RIGHTS and item.get_closest_marker("root") is None:
            item.add_marker("once")


def pytest_collection_finish() -> None:
    """What is here by now stays: the collector, called after each test, need not look at it."""
    prefork.prepare()
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """The end."""
    prefork.finish()


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Every test leaves the fds, the threads and the namespaces of each thread as they were."""
    before = Snapshot.of(os.getpid())
    yield
    gc.collect()
    for _ in range(100):
        # A thread that was joined is still there for the kernel, for a moment.
        if (after := Snapshot.of(os.getpid())) == before:
            # What is still here stays: the collector need not look at it after each of thousands of tests.
            gc.freeze()
            return
        time.sleep(0.01)
    raise AssertionError(after.difference(before))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A running broker with the policy as shipped; `daemon.allow(...)` adds rules."""
    with Daemon(tmp_path) as running:
        yield running


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    """A process in network, uts and ipc namespaces of its own."""
    with Sleeper() as process:
        yield process


@pytest.fixture
def blue() -> Iterator[Path]:
    """`ip netns add blue`."""
    with named_network("blue") as path:
        yield path
