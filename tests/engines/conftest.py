"""The engines for tests: those that are installed.  With ENGINES=all in the environment, a missing one fails the tests."""

import os
import shutil
from collections.abc import Iterator
from typing import NoReturn

import pytest

from tests.engines import real

ENGINES: list[type[real.Engine]] = [
    real.Docker,
    real.Podman,
    real.PodmanWithRunc,
    real.PodmanWithUserNamespace,
    real.Containerd,
    real.Cri,
    real.Runc,
    real.Crun,
    real.Lxc,
]
_missing: dict[str, None] = {}
"""What was not tested, and why, each once: a dict keeps the order."""


def leave_out(text: str) -> NoReturn:
    """Skip the test, and say in one line at the end what was not tested and why."""
    _missing[text] = None
    pytest.skip(text)


def started(kind: type[real.Engine]) -> Iterator[real.Engine]:
    """Yield the engine, running.  Skips the test when it is not installed."""
    missing = kind.missing()
    if missing:
        text = f"{kind.__name__} needs {', '.join(missing)}"
        if os.environ.get("ENGINES") == "all":
            pytest.fail(text)
        leave_out(f"{text} (make test ENGINES=all installs it)")
    real.WORK.mkdir(exist_ok=True)
    engine = kind()
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="session", params=ENGINES, ids=lambda kind: kind.__name__)
def engine(request: pytest.FixtureRequest) -> Iterator[real.Engine]:
    """Yield each engine, one after the other."""
    yield from started(request.param)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was not tested."""
    if shutil.which("systemd-nspawn") is None:
        _missing["units and machined need systemd-nspawn (make test ENGINES=all installs it)"] = None
    for text in _missing:
        terminalreporter.write_line(f"NOT TESTED: {text}")
