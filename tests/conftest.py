"""Fixtures and hooks for all tests: every test runs on a private host, and fails when it leaves something behind."""

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
from tests.snapshot import Snapshot
from tests.world import PATIENCE, Daemon, Sleeper, let_clients_wait, named_network

# No database: the checkout may belong to another user.  No limits of time: the machine may be slow.
hypothesis.settings.register_profile(
    "nsbroker", database=None, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("nsbroker")

_TESTS = Path(__file__).parent
_CHECKOUT = _TESTS.parent
_WITHOUT_RIGHTS = ("cli", "client", "conduit", "inside", "model", "names", "protocol", "varlink")


def pytest_configure() -> None:
    """Run pytest again on a private host, unless it runs on one already."""
    if "NSBROKER_PRIVATE_HOST" not in os.environ:
        user = [] if os.geteuid() == 0 else ["--user"]
        script = str(_CHECKOUT / "tests/private-host")
        os.execv(script, [script, *user, sys.executable, "-m", "pytest", *sys.argv[1:]])
    # A shell starts background jobs with SIGINT ignored, and every program that a test starts would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Some tests hold thousands of namespaces open; the usual soft limit is 1024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    let_clients_wait()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need no privileges with `once`: their result does not depend on the user."""
    for item in items:
        if item.path.relative_to(_TESTS).parts[0] in _WITHOUT_RIGHTS and item.get_closest_marker("root") is None:
            item.add_marker("once")


def pytest_collection_finish() -> None:
    """Exempt all objects that exist by now from garbage collection, which runs after each test."""
    prefork.prepare()
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """End the interpreter from which daemons were forked."""
    prefork.finish()


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Check that a test leaves the fds, the threads, and the namespaces of each thread as they were."""
    before = Snapshot.of(os.getpid())
    yield
    gc.collect()
    end = time.monotonic() + PATIENCE
    # The kernel still shows a joined thread for a moment.
    while (after := Snapshot.of(os.getpid())) != before:
        assert time.monotonic() < end, after.difference(before)
        time.sleep(0.01)
    # What exists now stays, so the collector need not look at it again after each of thousands of tests.
    gc.freeze()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A running broker with the policy that ships.  `daemon.allow(...)` adds rules."""
    with Daemon(tmp_path) as running:
        yield running


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    """A process with network, UTS and IPC namespaces of its own."""
    with Sleeper() as process:
        yield process


@pytest.fixture
def blue() -> Iterator[Path]:
    """The network namespace that `ip netns add blue` makes; the value is its path."""
    with named_network("blue") as path:
        yield path
