"""The blocking calls and methods are generated from the async ones, and up to date."""

from pathlib import Path

import pytest

from tests.client.generate_blocking import SOURCES, generate, generated

pytestmark = pytest.mark.once


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_blocking_code_is_what_is_generated_from_the_async_one(source: Path) -> None:
    assert generate(source) == generated(source).read_text(), "run `make generate`"
