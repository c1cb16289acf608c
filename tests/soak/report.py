"""The results of a run: counting samples, and formatting them for tables."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.soak.clients import KINDS, Sample, percentile

WHOS = ("innocent", "root")
Key = tuple[str, str]


@dataclass
class Tally:
    """Samples, counted by who made the call and by the kind of call."""

    times: dict[Key, list[float]] = field(default_factory=dict)
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    late: list[float] = field(default_factory=list)
    again: int = 0

    def add(self, samples: Iterable[Sample]) -> None:
        """Count these samples."""
        for sample in samples:
            self.times.setdefault((sample.who, sample.kind), []).append(sample.taken)
            self.outcomes.setdefault(sample.who, Counter())[sample.outcome] += 1
            self.late.append(sample.late)
            self.again += sample.again

    def at(self, who: str, kind: str, share: float) -> float:
        """Return a percentile of the times of one kind of call, in seconds."""
        return percentile(self.times.get((who, kind), ()), share)

    def most(self, who: str) -> float:
        """Return the time of the slowest call, in seconds."""
        return max((time for (one, _), times in self.times.items() if one == who for time in times), default=math.nan)

    def all_at(self, who: str, share: float) -> float:
        """Return a percentile of the times of all calls that `who` made, in seconds."""
        return percentile([time for kind in KINDS for time in self.times.get((who, kind), ())], share)

    def ratio(self, idle: "Tally", who: str) -> float:
        """Return the p99 under attack divided by the idle p99, of all calls or of plain calls, whichever is worse."""
        return max(self.all_at(who, 0.99) / idle.all_at(who, 0.99), self.at(who, "open", 0.99) / idle.at(who, "open", 0.99))

    def count(self, who: str, outcome: str) -> int:
        """Return how many calls had this outcome."""
        return self.outcomes.get(who, Counter())[outcome]

    def bad(self, who: str) -> str:
        """Say briefly how many calls did not have the right result."""
        found = [f"{count} {name}" for name in ("refused", "wrong", "lost") if (count := self.count(who, name))]
        return ", ".join(found) or "0"


def milli(seconds: float) -> str:
    """Format seconds as milliseconds, with three digits."""
    return "-" if math.isnan(seconds) else f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def times(tally: Tally, who: str) -> list[str]:
    """Return the median of plain calls and the p99 of each kind of call, in milliseconds."""
    return [milli(tally.at(who, "open", 0.5)), *(milli(tally.at(who, kind, 0.99)) for kind in KINDS)]


TIMES_HEAD = ("p50", *(f"p99 {kind}" for kind in KINDS))


def describe(tally: Tally, who: str) -> str:
    """Describe the times of the calls that `who` made, in one line."""
    kinds = [f"{kind} {milli(tally.at(who, kind, 0.5))}/{milli(tally.at(who, kind, 0.99))}" for kind in KINDS]
    return f"{who}: {', '.join(kinds)} ms (p50/p99), max {milli(tally.most(who))} ms"


def late(tally: Tally) -> str:
    """Return the p99 by which the kernel woke the clients late.  The machine adds this by itself."""
    return f"{milli(percentile(tally.late, 0.99))} ms"


@dataclass(frozen=True)
class Criterion:
    """One criterion of the verdict.  `met`: whether what was found is within the limit."""

    what: str
    limit: str
    found: str
    met: bool


def print_result(criteria: Sequence[Criterion]) -> int:
    """Print how many criteria were met, and return the exit code."""
    passed = sum(one.met for one in criteria)
    print(f"{passed} passed, {len(criteria) - passed} failed", flush=True)
    return 0 if passed == len(criteria) else 1
