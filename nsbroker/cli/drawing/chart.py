"""Turn descriptions of namespaces into a chart of who shares what.

A chart has a column for each container, unit or process, a row for each namespace type, and a bar for each namespace that
reaches across the columns that share it.
"""

import re
from collections.abc import Iterable, Sequence

from msgspec import Struct

from nsbroker.cli.drawing.grouping import Column, Key, columns_of, key
from nsbroker.model.description import NamespaceDescription
from nsbroker.model.identity import NamespaceType

COLOURS = 6
LANES = 3
ROWS = tuple(NamespaceType(name) for name in ("net", "ipc", "uts", "pid", "mnt", "cgroup", "user", "time"))
"""The rows from top to bottom: first what a pod shares, then what each container has alone, then what is mostly the host's."""

# The host's namespaces say little about which columns belong together, so they only decide between columns that are otherwise
# equal.
_HOSTS_WEIGHT = 0.001
_EARLIER_WEIGHT = 0.1
_SAME_NAME_WEIGHT = 10.0
_NAME_PARTS = re.compile(r"([^0-9]*)([0-9]*)", re.DOTALL)


class Bar(Struct, frozen=True):
    """A namespace, with the columns that share it.  `runs` groups neighbouring columns as pairs (first, last)."""

    ns: NamespaceDescription
    row: int
    columns: tuple[int, ...]
    runs: tuple[tuple[int, int], ...]
    is_host: bool
    colour: int | None
    """The number of its colour, or None for the host's namespaces and those that are not shared.

    Namespaces that are shared by the same columns have the same colour.
    """
    lane: int
    """The position of the line that connects the runs.  Lines in one row that overlap get different lanes."""


class Chart(Struct, frozen=True):
    """All that is drawn: columns, rows and bars."""

    columns: tuple[Column, ...]
    rows: tuple[NamespaceType, ...]
    bars: tuple[Bar, ...]


def chart_of(namespaces: Sequence[NamespaceDescription], types: Iterable[NamespaceType] | None = None) -> Chart:
    """Return the chart of these namespaces, with the rows of `types` (None: all).

    The columns are worked out from all given namespaces, so that choosing types does not change the names of columns.
    """
    rows = tuple(row for row in ROWS if types is None or row in frozenset(types))
    columns = _order_columns(columns_of(namespaces, rows))
    return Chart(tuple(columns), rows, tuple(_build_bars(columns, rows)))


def _order_columns(columns: Sequence[Column]) -> list[Column]:
    """Put the host first, and then after each column the one that shares the most with it."""
    hosts = frozenset(one for column in columns if column.is_host for one in column.keys)
    with_host = [column.keys & hosts for column in columns]
    groups = _find_groups(columns, hosts)
    rest = sorted(range(len(columns)), key=lambda one: (not columns[one].is_host, _natural_key(columns[one].label), one))
    order: list[int] = []
    # The most that each column shares with any one column that already has its place.
    shared_before = [0.0] * len(columns)
    likeness = shared_before
    while rest:
        # max() returns the first of equals, and `rest` is sorted by name.
        last = max(rest, key=likeness.__getitem__)
        rest.remove(last)
        order.append(last)
        shared_with_last = [0.0] * len(columns)
        for members, weight in groups[last]:
            for one in members:
                shared_with_last[one] += weight
        shared_before = [max(pair) for pair in zip(shared_before, shared_with_last, strict=True)]
        likeness = [
            shared_with_last[one] + _EARLIER_WEIGHT * shared_before[one] + _HOSTS_WEIGHT * len(with_host[last] & with_host[one])
            for one in range(len(columns))
        ]
    return [columns[one] for one in order]


def _natural_key(name: str) -> list[tuple[str, int, str]]:
    """Return a key that sorts numbers in names by value: pod-2 comes before pod-10, with any number of digits."""
    plain = ((word, number.lstrip("0")) for word, number in _NAME_PARTS.findall(name))
    return [(word, len(digits), digits) for word, digits in plain]


def _find_groups(columns: Sequence[Column], hosts: frozenset[Key]) -> list[list[tuple[list[int], float]]]:
    """Return for each column the groups of columns that share a namespace or the name with it, each with its weight.

    A namespace that few columns share weighs more than one that many share.
    """
    sharers: dict[Key, list[int]] = {}
    names: dict[str, list[int]] = {}
    for number, column in enumerate(columns):
        names.setdefault(column.label, []).append(number)
        for one in column.keys - hosts:
            sharers.setdefault(one, []).append(number)
    weighted = [(members, 1 / len(members)) for members in sharers.values()]
    weighted += [(members, _SAME_NAME_WEIGHT) for members in names.values()]
    groups: list[list[tuple[list[int], float]]] = [[] for _ in columns]
    for members, weight in weighted:
        if len(members) > 1:
            for number in members:
                groups[number].append((members, weight))
    return groups


def _build_bars(columns: Sequence[Column], rows: Sequence[NamespaceType]) -> Iterable[Bar]:
    colours: dict[tuple[int, ...], int] = {}
    for number, row in enumerate(rows):
        members: dict[Key, list[int]] = {}
        namespaces: dict[Key, NamespaceDescription] = {}
        for place, column in enumerate(columns):
            if (ns := column.cells.get(row)) is not None:
                members.setdefault(key(ns), []).append(place)
                namespaces[key(ns)] = ns
        ends = [-1] * LANES
        for one, places in members.items():
            runs = _find_runs(places)
            is_host = columns[places[0]].is_host
            colour = None
            if len(places) > 1 and not is_host:
                colour = colours.setdefault(tuple(places), len(colours) % COLOURS)
            lane = 0
            if len(runs) > 1:
                lane = next((lane for lane, end in enumerate(ends) if end < places[0]), LANES - 1)
                ends[lane] = max(ends[lane], places[-1])
            yield Bar(namespaces[one], number, tuple(places), runs, is_host, colour, lane)


def _find_runs(places: Sequence[int]) -> tuple[tuple[int, int], ...]:
    runs: list[tuple[int, int]] = []
    for place in places:
        if runs and runs[-1][1] == place - 1:
            runs[-1] = (runs[-1][0], place)
        else:
            runs.append((place, place))
    return tuple(runs)
