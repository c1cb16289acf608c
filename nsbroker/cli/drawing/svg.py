"""Draw a chart as SVG: as one picture for a file, or as the parts that a page is made of."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from nsbroker.cli.drawing.chart import LANES, Bar, Chart
from nsbroker.cli.drawing.details import about_column, about_namespace, unit_count, wrap_name
from nsbroker.cli.drawing.grouping import Column
from nsbroker.cli.formatting import namespace_id
from nsbroker.model.identity import NamespaceType
from nsbroker.model.text import escaped

STYLE = Path(__file__).with_name("chart.css").read_text()
COLUMN = 120
"""The width of a column in pixels, with the gap beside it."""
GUTTER = 132
"""The width of the row labels in pixels."""

_GAP = 8
_BAR = 30
_LANE = 5
_ROW = _BAR + 8 + LANES * _LANE
_LINE = 16
_LETTERS = 13
_NAME_LINES = 4
_MARGIN = 20
# A long bar shows its inode once for this many columns, because it may not fit on the screen as a whole.
_LABEL_EVERY = 6
_LEGEND = (
    ("host", "the host's"),
    ("alone", "used by one"),
    ("shared c0", "shared (one colour: by the same columns)"),
)
_LEGEND_WIDTHS = (104, 118, 250)
LEGEND_WIDTH = sum(_LEGEND_WIDTHS)
_MEANINGS = {
    NamespaceType.NET: "network",
    NamespaceType.IPC: "shared memory",
    NamespaceType.UTS: "host name",
    NamespaceType.PID: "process numbers",
    NamespaceType.MNT: "mounts",
    NamespaceType.CGROUP: "control groups",
    NamespaceType.USER: "users",
    NamespaceType.TIME: "clocks",
}


def picture(chart: Chart, summary: str) -> str:
    """Return the whole picture as an SVG file.  `summary` is printed at the bottom."""
    width = _MARGIN + GUTTER + max(plot_width(chart), LEGEND_WIDTH - GUTTER) + _MARGIN - _GAP
    tall = height(chart)
    total = tall + 2 * _MARGIN + 44
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + _tag(
        "svg",
        _tag("title", "Who shares which Linux namespaces", id="title"),
        _tag("desc", f"{summary}. {_describe_in_words(chart)}", id="desc"),
        f"<style>{escape(STYLE, quote=False)}</style>",
        _tag("rect", cls="paper", width=width, height=total, rx=10),
        _tag("g", row_labels(chart), transform=f"translate({_MARGIN} {_MARGIN})"),
        _tag("g", plot(chart), transform=f"translate({_MARGIN + GUTTER} {_MARGIN})"),
        _tag("g", legend(), transform=f"translate({_MARGIN} {_MARGIN + tall + 14})"),
        _tag("text", escaped(summary), cls="small", x=_MARGIN, y=total - 12),
        xmlns="http://www.w3.org/2000/svg", cls="chart", role="img", aria_labelledby="title desc",
        viewBox=f"0 0 {width} {total}", width=width, height=total,
    ) + "\n"  # fmt: skip


def height(chart: Chart) -> int:
    """Return the height of the plot, which is also that of the row labels, in pixels."""
    return _heading_height(chart) + len(chart.rows) * _ROW


def plot_width(chart: Chart) -> int:
    """Return the width of all columns in pixels."""
    return len(chart.columns) * COLUMN


def row_labels(chart: Chart) -> str:
    """Return the labels of the rows: the namespace types and what they are for."""
    top = _heading_height(chart)
    return "\n".join(
        _tag(
            "g",
            _tag("text", row, cls="row", y=top + number * _ROW + 13),
            _tag("text", _MEANINGS[row], cls="small", y=top + number * _ROW + 27),
        )
        for number, row in enumerate(chart.rows)
    )


def plot(chart: Chart) -> str:
    """Return the columns and bars.  Their left edge is at x = 0."""
    if not chart.columns:
        return _tag("text", "There is no namespace that you may open.", cls="small", y=_LINE)
    top, bottom = _heading_height(chart), height(chart)
    # SVG draws in document order, so the background comes first.
    parts = [
        _tag("rect", cls="stripe", x=number * COLUMN - _GAP / 2, width=COLUMN, height=bottom)
        for number in range(0, len(chart.columns), 2)
    ]
    parts += [_heading(column, number) for number, column in enumerate(chart.columns)]
    labels = [column.label for column in chart.columns]
    parts += [_bar(bar, [labels[place] for place in bar.columns], top + bar.row * _ROW) for bar in chart.bars]
    return "\n".join(parts)


def legend() -> str:
    """Return the explanation of the colours.  Its left edge is at x = 0."""
    parts, x = [], 0
    for (look, meaning), width in zip(_LEGEND, _LEGEND_WIDTHS, strict=True):
        swatch = _tag("rect", x=x + 0.5, y=0.5, width=18, height=12, rx=3)
        parts.append(_tag("g", swatch, _tag("text", meaning, cls="small", x=x + 25, y=11), cls=f"key {look}"))
        x += width
    return "".join(parts)


def _heading_height(chart: Chart) -> int:
    lines = [
        len(wrap_name(column.name, _LETTERS, _NAME_LINES)) + (column.is_host and bool(column.also)) for column in chart.columns
    ]
    return 14 + _LINE * (1 + max(lines, default=1))


def _heading(column: Column, number: int) -> str:
    x = number * COLUMN + 2
    lines = [_tag("text", escaped(column.kind), cls="kind", x=x, y=14)]
    y = 14
    for line in wrap_name(column.name, _LETTERS, _NAME_LINES):
        y += _LINE
        lines.append(_tag("text", line, cls="name", x=x, y=y))
    if column.is_host and column.also:
        lines.append(_tag("text", unit_count(column), cls="small", x=x, y=y + _LINE))
    return _tag(
        "g",
        _title(about_column(column)),
        _tag("rect", cls="back", x=number * COLUMN - 3, y=1, width=COLUMN - _GAP + 6, height=y + _LINE + 3, rx=4),
        *lines,
        cls="column", data_column=number, data_find=escaped(" ".join([column.label, *column.also])),
    )  # fmt: skip


def _bar(bar: Bar, sharers: Sequence[str], y: int) -> str:
    parts = [_title(about_namespace(bar.ns, sharers))]
    if len(bar.runs) > 1:
        parts.append(_connecting_line(bar, y))
    for first, last in bar.runs:
        x, width = first * COLUMN, (last - first + 1) * COLUMN - _GAP
        parts.append(_tag("rect", x=x + 0.5, y=y + 0.5, width=width - 1, height=_BAR - 1, rx=5))
        labels = -(-(last - first + 1) // _LABEL_EVERY)
        for number in range(labels):
            middle = x + width * (2 * number + 1) / (2 * labels)
            parts.append(_tag("text", str(bar.ns.inode), x=f"{middle:g}", y=y + 20))
    look = "host" if bar.is_host else "alone" if bar.colour is None else f"shared c{bar.colour}"
    command = bar.ns.process.command if bar.ns.process else ""
    return _tag(
        "g", *parts, cls=f"bar {look}", data_row=bar.row, data_columns=" ".join(map(str, bar.columns)),
        data_find=escaped(f"{namespace_id(bar.ns)} {command}"),
    )  # fmt: skip


def _connecting_line(bar: Bar, y: int) -> str:
    """Return a line below the bars, with a short vertical line up to each run."""
    low = y + _BAR + (bar.lane + 1) * _LANE
    stems = [(first + last + 1) * COLUMN / 2 - _GAP / 2 for first, last in bar.runs]
    path = "".join(f"M{x:g} {y + _BAR}V{low}" for x in stems) + f"M{stems[0]:g} {low}H{stems[-1]:g}"
    return _tag("path", d=path)


def _describe_in_words(chart: Chart) -> str:
    """Return the picture in words, for people who cannot see it: which namespaces that are not the host's are shared by whom."""
    shared = [
        f"{namespace_id(bar.ns)} is shared by {', '.join(escaped(chart.columns[place].label) for place in bar.columns)}."
        for bar in chart.bars
        if bar.colour is not None
    ]
    return " ".join(shared) or "Nothing but the host's namespaces is shared."


def _title(lines: Iterable[str]) -> str:
    return _tag("title", "\n".join(lines))


def _tag(name: str, *content: str, **attributes: object) -> str:
    """Return an element.  Attributes and the content of text, title and desc are escaped; other content must be markup."""
    words = "".join(f' {_attribute_name(word)}="{escape(str(value))}"' for word, value in attributes.items())
    inside = "".join(escape(str(part)) if name in ("text", "title", "desc") else part for part in content)
    return f"<{name}{words}>{inside}</{name}>" if content else f"<{name}{words}/>"


def _attribute_name(word: str) -> str:
    return {"cls": "class"}.get(word, word.replace("_", "-"))
