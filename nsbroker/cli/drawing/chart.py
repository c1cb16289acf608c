"""From descriptions of namespaces to a chart of who shares what: columns in an order, and bars across them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nsbroker.cli.drawing.grouping import Column, Key, columns_of, key
from nsbroker.model.description import NamespaceDescription
from nsbroker.model.identity import NamespaceType

COLOURS = 6
LANES = 3
ROWS = tuple(NamespaceType(name) for name in ("net", "ipc", "uts", "pid", "mnt", "cgroup", "user", "time"))
"""From top to bottom: what a pod shares, what each container has of its own, what is mostly the host's."""

# Beside a namespace that two share, one that everything shares says little; but it decides where nothing else does.
_HOSTS_WEIGHT = 0.001
_EARLIER_WEIGHT = 0.1
_SAME_NAME = 10.0
_WORDS = re.compile(r"([^0-9]*)([0-9]*)", re.DOTALL)


@dataclass(frozen=True)
class Bar:
    """A namespace: the columns that are in it, in runs of neighbours (first, last)."""

    space: NamespaceDescription
    row: int
    columns: tuple[int, ...]
    runs: tuple[tuple[int, int], ...]
    is_host: bool
    colour: int | None
    """Of what several share: those with the same sharers have the same."""
    lane: int
    """Where the line runs that connects the runs: lines of one row that overlap have different ones."""


@dataclass(frozen=True)
class Chart:
    """What is drawn."""

    columns: tuple[Column, ...]
    rows: tuple[NamespaceType, ...]
    bars: tuple[Bar, ...]


def chart_of(spaces: Sequence[NamespaceDescription], types: Iterable[NamespaceType] | None = None) -> Chart:
    """The chart of these namespaces, of `types` (None: all) alone.

    Columns are made of all that is given, so that leaving out types changes no column's name.
    """
    rows = tuple(row for row in ROWS if types is None or row in frozenset(types))
    columns = _ordered(columns_of(spaces, rows))
    return Chart(tuple(columns), rows, tuple(_bars(columns, rows)))


def _ordered(columns: Sequence[Column]) -> list[Column]:
    """The host first, and then always the one that shares the most with the one before it."""
    hosts = frozenset(one for column in columns if column.is_host for one in column.keys)
    with_host = [column.keys & hosts for column in columns]
    groups = _groups(columns, hosts)
    rest = sorted(range(len(columns)), key=lambda one: (not columns[one].is_host, _natural(columns[one].label), one))
    order: list[int] = []
    near = [0.0] * len(columns)
    likeness = near
    while rest:
        # Of equals the first in the order of names, which `rest` keeps.
        last = max(rest, key=likeness.__getitem__)
        rest.remove(last)
        order.append(last)
        beside = [0.0] * len(columns)
        for members, weight in groups[last]:
            for one in members:
                beside[one] += weight
        near = [max(pair) for pair in zip(near, beside, strict=True)]
        likeness = [
            beside[one] + _EARLIER_WEIGHT * near[one] + _HOSTS_WEIGHT * len(with_host[last] & with_host[one])
            for one in range(len(columns))
        ]
    return [columns[one] for one in order]


def _natural(name: str) -> list[tuple[str, int, str]]:
    """For sorting: pod-2 before pod-10, however many digits there are."""
    plain = ((word, number.lstrip("0")) for word, number in _WORDS.findall(name))
    return [(word, len(digits), digits) for word, digits in plain]


def _groups(columns: Sequence[Column], hosts: frozenset[Key]) -> list[list[tuple[list[int], float]]]:
    """For each column those that share something with it, thing by thing; what few share counts for more."""
    sharers: dict[Key, list[int]] = {}
    names: dict[str, list[int]] = {}
    for number, column in enumerate(columns):
        names.setdefault(column.label, []).append(number)
        for one in column.keys - hosts:
            sharers.setdefault(one, []).append(number)
    weighed = [(members, 1 / len(members)) for members in sharers.values()]
    weighed += [(members, _SAME_NAME) for members in names.values()]
    groups: list[list[tuple[list[int], float]]] = [[] for _ in columns]
    for members, weight in weighed:
        if len(members) > 1:
            for number in members:
                groups[number].append((members, weight))
    return groups


def _bars(columns: Sequence[Column], rows: Sequence[NamespaceType]) -> Iterable[Bar]:
    colours: dict[tuple[int, ...], int] = {}
    for number, row in enumerate(rows):
        members: dict[Key, list[int]] = {}
        spaces: dict[Key, NamespaceDescription] = {}
        for place, column in enumerate(columns):
            if (space := column.cells.get(row)) is not None:
                members.setdefault(key(space), []).append(place)
                spaces[key(space)] = space
        ends = [-1] * LANES
        for one, places in members.items():
            runs = _runs(places)
            is_host = columns[places[0]].is_host
            colour = None
            if len(places) > 1 and not is_host:
                colour = colours.setdefault(tuple(places), len(colours) % COLOURS)
            lane = 0
            if len(runs) > 1:
                lane = next((lane for lane, end in enumerate(ends) if end < places[0]), LANES - 1)
                ends[lane] = max(ends[lane], places[-1])
            yield Bar(spaces[one], number, tuple(places), runs, is_host, colour, lane)


def _runs(places: Sequence[int]) -> tuple[tuple[int, int], ...]:
    runs: list[tuple[int, int]] = []
    for place in places:
        if runs and runs[-1][1] == place - 1:
            runs[-1] = (runs[-1][0], place)
        else:
            runs.append((place, place))
    return tuple(runs)
