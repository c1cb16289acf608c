"""What is fuzzed: a subject draws structure from hypothesis, makes many calls of each example, and counts them.

An example holds a seed of its own beside what hypothesis drew: from both the subject makes dozens of variants, since
drawing each single call would take longer than making it.
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
    """What was fuzzed did what it must not do."""


class Endless(KeyboardInterrupt):
    """An example takes longer than any should.  Not an Exception: hypothesis would make the example again and again."""


class Subject(NamedTuple):
    """`check` makes the calls of one example and returns how many; it raises Fault, or what should never have come out.
    `kept` are examples that failed once, checked first.  `share`: of all calls.
    """

    name: str
    share: float
    examples: SearchStrategy[Any]
    check: Check
    kept: Sequence[Any] = ()


def seeded(strategy: SearchStrategy[T]) -> SearchStrategy[tuple[T, random.Random]]:
    """Examples with a generator of variants."""
    return st.tuples(strategy, st.integers(0, 2**32).map(Seed))


class Seed(random.Random):
    """A generator that starts anew for each check, and is shown by its seed."""

    def __init__(self, start: int) -> None:
        self.start = start
        super().__init__(start)

    def again(self) -> "Seed":
        """At its start."""
        return Seed(self.start)

    def __repr__(self) -> str:
        return f"Seed({self.start})"


def is_linear(work: Callable[[], object], size: int, *, base: float = 0.02, each: float = 20e-6) -> bool:
    """Whether `work` on an input of so many bytes takes `base` and `each` per byte of processor time at most.

    Asked again when it does not: a pause of the collector's is nobody's fault.
    """
    for _ in range(3):
        start = time.process_time()
        work()
        if time.process_time() - start <= base + each * size:
            return True
    return False
