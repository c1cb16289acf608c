"""The blocking methods are generated from the async ones, and up to date."""

import pytest

from tests.client.generate_blocking import GENERATED, SOURCE, generate

pytestmark = pytest.mark.once


def test_the_blocking_methods_are_what_is_generated_from_the_async_ones() -> None:
    assert generate(SOURCE.read_text()) == GENERATED.read_text(), "run `make generate`"
