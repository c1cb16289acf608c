"""These tests run inside a booted systemd (tests/boot-systemd), and nowhere else."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.unit import Unit


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave these tests out elsewhere.  `make test` runs them in a booted systemd."""
    if "NSBROKER_BOOTED" not in os.environ:
        here = Path(__file__).parent
        items[:] = [item for item in items if here not in item.path.parents]


@pytest.fixture
def unit() -> Iterator[Unit]:
    """The units, installed and listening.  The service starts with the first connection."""
    nsbroker = str(Path(sys.executable).with_name("nsbroker"))
    installed = Unit(nsbroker)
    installed.run(nsbroker, "install-units")
    installed.run("systemctl", "enable", "--now", "nsbroker.socket")
    try:
        yield installed
    finally:
        subprocess.run(["systemctl", "kill", "-s", "CONT", "nsbroker.service"], capture_output=True)
        installed.clear()
        installed.run(nsbroker, "remove-units")
