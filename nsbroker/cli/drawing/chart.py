"""Turn descriptions of namespaces into a chart of who shares what.

A chart has a column for each container, unit or process, a row for each namespace type, and a bar for each namespace that
reaches across the columns that share it.
"""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from nsbroker.cli.drawing.column_order import order_columns
from nsbroker.cli.drawing.grouping import Column, Key, columns_of, key
from nsbroker.model.description import NamespaceDescription
from nsbroker.model.identity import NamespaceType

COLOURS = 6
LANES = 3
ROWS = tuple(NamespaceType(name) for name in ("net", "ipc", "uts", "pid", "mnt", "cgroup", "user", "time"))
"""The rows from top to bottom: first what a pod shares, then what each container has alone, then what is mostly the host's."""


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
    columns = order_columns(columns_of(namespaces, rows))
    return Chart(tuple(columns), rows, tuple(_build_bars(columns, rows)))


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
