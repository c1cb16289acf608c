"""These tests run only with `make test-browser`, which installs a browser."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.webdriver import Browser


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Remove these tests from other runs."""
    if "NSBROKER_BROWSER" not in os.environ:
        here = Path(__file__).parent
        items[:] = [item for item in items if here not in item.path.parents]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, with light colours."""
    window = Browser()
    try:
        yield window
    finally:
        window.close()


@pytest.fixture(scope="session")
def dark_browser() -> Iterator[Browser]:
    """Chromium, with dark colours."""
    window = Browser(dark=True)
    try:
        yield window
    finally:
        window.close()
