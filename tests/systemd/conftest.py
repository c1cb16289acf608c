"""These tests run inside a booted systemd (tests/boot-systemd), and nowhere else."""

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave them out elsewhere: `make test` calls them where they belong."""
    if "NSBROKER_BOOTED" not in os.environ:
        here = Path(__file__).parent
        items[:] = [item for item in items if here not in item.path.parents]
