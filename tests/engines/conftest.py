"""Engines for tests: those that are here; with ENGINES=all in the environment, all of them or a failure."""

import os
import shutil
from collections.abc import Iterator

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
_missing: dict[str, str] = {}


def started(kind: type[real.Engine]) -> Iterator[real.Engine]:
    """The engine, running; skips the test where it is not installed."""
    missing = kind.missing()
    if missing:
        text = f"{kind.__name__} needs {', '.join(missing)}"
        _missing[kind.__name__] = text
        if os.environ.get("ENGINES") == "all":
            pytest.fail(text)
        pytest.skip(text)
    real.WORK.mkdir(exist_ok=True)
    engine = kind()
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="session", params=ENGINES, ids=lambda kind: kind.__name__)
def engine(request: pytest.FixtureRequest) -> Iterator[real.Engine]:
    """Each engine in turn."""
    yield from started(request.param)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was not tested."""
    if shutil.which("systemd-nspawn") is None:
        _missing["systemd"] = "units and machined need systemd-nspawn"
    for text in _missing.values():
        terminalreporter.write_line(f"NOT TESTED: {text} (make test ENGINES=all installs it)")
