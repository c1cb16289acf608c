"""New namespaces to enter."""

from collections.abc import Iterator

import pytest

from nsbroker.namespace import Namespace


@pytest.fixture
def net() -> Iterator[Namespace]:
    with Namespace.create("net") as ns:
        yield ns


@pytest.fixture
def uts() -> Iterator[Namespace]:
    with Namespace.create("uts") as ns:
        yield ns
