"""Subjects of fuzzing: a subject draws examples with hypothesis, makes many calls from each example, and counts them.

An example contains a seed besides what hypothesis drew.  From both, the subject makes dozens of variants, because drawing
every single call would take longer than making it.
"""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")
Check = Callable[[Any], int]


class Fault(Exception):
    """The fuzzed code did what it must not do."""


class Endless(KeyboardInterrupt):
    """An example takes too long.  Not an Exception, since hypothesis would otherwise repeat the example again and again."""


class Subject(NamedTuple):
    """One subject.

    `share`: its share of all calls.  `check` makes the calls of one example and returns how many; it raises Fault, or an error
    that the fuzzed code must not raise.  `kept`: examples that failed once; they are checked first.
    """

    name: str
    share: float
    examples: SearchStrategy[Any]
    check: Check
    kept: Sequence[Any] = ()


def seeded(strategy: SearchStrategy[T]) -> SearchStrategy[tuple[T, random.Random]]:
    """Add a random generator to each example, from which variants are made."""
    return st.tuples(strategy, st.integers(0, 2**32).map(Seed))


class Seed(random.Random):
    """A random generator that starts anew for each check.  Its repr shows the seed."""

    def __init__(self, start: int) -> None:
        self.start = start
        super().__init__(start)

    def again(self) -> "Seed":
        """Return the generator at its start."""
        return Seed(self.start)

    def __repr__(self) -> str:
        return f"Seed({self.start})"


def is_linear(work: Callable[[], object], size: int, *, base: float = 0.02, each: float = 20e-6) -> bool:
    """Return whether `work`, on an input of `size` bytes, takes at most `base` plus `each` per byte, in seconds of processor time.

    It is tried three times, because a run of the garbage collector may come in between.
    """
    for _ in range(3):
        start = time.process_time()
        work()
        if time.process_time() - start <= base + each * size:
            return True
    return False
