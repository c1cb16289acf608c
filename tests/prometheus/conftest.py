"""These tests run only with `make test-prometheus`, which fetches Prometheus."""

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Remove these tests from other runs."""
    if "PROMETHEUS" not in os.environ:
        here = Path(__file__).parent
        items[:] = [item for item in items if here not in item.path.parents]
