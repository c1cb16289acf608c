"""These tests run only where `make test-incus` boots a Debian with incus."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines import real
from tests.engines.conftest import started


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave these tests out elsewhere."""
    if "NSBROKER_BOOTED" not in os.environ or real.Incus.missing():
        here = Path(__file__).parent
        items[:] = [item for item in items if here not in item.path.parents]


@pytest.fixture(scope="session")
def engine() -> Iterator[real.Engine]:
    """Yield incus, running."""
    yield from started(real.Incus)
