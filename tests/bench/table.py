"""The rows of the table, their goals, and how they are printed."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nsbroker.cli.output import print_table

NOW = "now"
BEFORE = "before"
"""The two versions of nsbroker: that of this checkout, and that of the commit in $BEFORE, if any."""

_LEFT_OUT = "left out: "


class LeftOut(Exception):
    """Something cannot be measured here.  The text says why, in a few words."""


class Goal(NamedTuple):
    """A ratio that shall be reached, and one that would be even better."""

    sign: str
    ratio: float
    stretch: float | None = None

    def verdict(self, ratio: float) -> str:
        """Return whether `ratio` meets this goal, in words."""
        if not self._holds(ratio, self.ratio):
            return "NOT MET"
        return "met, and the stretch" if self.stretch is not None and self._holds(ratio, self.stretch) else "met"

    def _holds(self, ratio: float, limit: float) -> bool:
        return ratio <= limit if self.sign == "<=" else ratio >= limit

    def __str__(self) -> str:
        return f"{self.sign} {self.ratio:g}" + ("" if self.stretch is None else f" ({self.stretch:g})")


def at_most(ratio: float, stretch: float | None = None) -> Goal:
    """Return the goal of a ratio where less is better."""
    return Goal("<=", ratio, stretch)


def at_least(ratio: float, stretch: float | None = None) -> Goal:
    """Return the goal of a ratio where more is better."""
    return Goal(">=", ratio, stretch)


class Measure(NamedTuple):
    """What was measured, in words, and its ratio to what it is compared with."""

    text: str
    ratio: float | None = None


class Row(NamedTuple):
    """One line of the table.  `measures` has one for each version of nsbroker; a rival has only that of `NOW`."""

    work: str
    measures: Mapping[str, Measure]
    beside: str = ""
    """What the ratio is to."""
    goal: Goal | None = None

    def _ratio(self) -> str:
        ratios = [self.measures[name].ratio for name in (BEFORE, NOW) if name in self.measures]
        shown = " -> ".join(f"{ratio:.2f}" for ratio in ratios if ratio is not None)
        return f"{shown} {self.beside}" if shown else ""

    def _verdict(self) -> str:
        if self.goal is None:
            return ""
        ratio = self.measures[NOW].ratio if NOW in self.measures else None
        return "not measured" if ratio is None else self.goal.verdict(ratio)

    def cells(self, *, compared: bool) -> Sequence[str]:
        """Return the cells of this line; with `compared`, one of them is what the earlier version needed."""
        texts = [self.measures[name].text if name in self.measures else "" for name in (BEFORE, NOW)]
        return [self.work, *texts[0 if compared else 1 :], self._ratio(), str(self.goal or ""), self._verdict()]


def plain(work: str, text: str) -> Row:
    """Return the row of a rival."""
    return Row(work, {NOW: Measure(text)})


def left_out(work: str, why: object) -> Row:
    """Return the row that says why something was not measured."""
    return plain(work, f"{_LEFT_OUT}{' '.join(str(why).split())[:100]}")


def show(rows: Sequence[Row], *, compared: bool) -> None:
    """Print all rows."""
    head = ["WORK", *(["BEFORE"] if compared else []), "NOW", "RATIO", "GOAL (STRETCH)", ""]
    print_table(head, [row.cells(compared=compared) for row in rows])
    verdicts = [cells[-1] for cells in (row.cells(compared=False) for row in rows) if cells[-1]]
    met = sum(verdict.startswith("met") for verdict in verdicts)
    missing = sum(row.measures[NOW].text.startswith(_LEFT_OUT) for row in rows)
    print(f"\n{met} of {len(verdicts)} goals are met.  {missing} rows are left out.")


def micro(seconds: float) -> str:
    """Format seconds as microseconds."""
    return f"{seconds * 1e6:.1f} us"


def milli(seconds: float) -> str:
    """Format seconds as milliseconds."""
    return f"{seconds * 1e3:.1f} ms"
