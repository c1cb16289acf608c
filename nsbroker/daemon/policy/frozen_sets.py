"""Frozen sets of a policy.  Each rule has fifteen, most of them empty, and a policy can have thousands of rules."""

from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")

_EMPTY: frozenset[Any] = frozenset()


def frozen(items: Iterable[T]) -> frozenset[T]:
    """Return the items as a frozen set.  All empty ones are the same object, because each would take 216 bytes."""
    return frozenset(items) or _EMPTY
