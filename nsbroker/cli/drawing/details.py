"""What a map tells of a namespace and of a column: lines of plain text, whatever names contain."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from nsbroker.cli.drawing.grouping import Column
from nsbroker.cli.formatting import namespace_id
from nsbroker.cli.terminal import escaped
from nsbroker.model.description import Holder, HolderKind, NamespaceDescription

_MOST_NAMES = 40
_MOST_HOLDERS = 10
_SEAMS = frozenset("/-_.:@ ")


def about_namespace(space: NamespaceDescription, sharers: Sequence[str]) -> Iterator[str]:
    """Its id, and then lines `what: how it is`."""
    yield namespace_id(space)
    yield f"{'shared by' if len(sharers) > 1 else 'of'}: {_listed(sharers, _MOST_NAMES)}"
    yield f"processes: {space.processes}"
    if space.process is not None:
        uid = f" (uid {space.process.uid})" if space.process.uid is not None else ""
        yield escaped(f"leader: {space.process.pid} {space.process.command}{uid}")
    if space.holders:
        yield f"held by: {_listed(map(_holder, space.holders), _MOST_HOLDERS)}"
    owner = [f"uid {space.owner_uid}"] * (space.owner_uid is not None) + [f"user:[{space.owner}]"] * (space.owner is not None)
    if owner:
        yield f"owner: {', '.join(owner)}"
    if space.parent is not None:
        yield f"parent: {space.type}:[{space.parent}]"


def about_column(column: Column) -> Iterator[str]:
    """Its name, and then lines `what: how it is`."""
    yield escaped(column.label)
    yield f"namespaces: {_listed(map(namespace_id, column.cells.values()), _MOST_NAMES)}"
    if column.also:
        yield f"{counted_units(column) if column.is_host else 'also'}: {_listed(column.also, len(column.also))}"


def counted_units(column: Column) -> str:
    """How many units are where the host is."""
    return f"{len(column.also)} {'units' if len(column.also) > 1 else 'unit'}"


def _holder(holder: Holder) -> str:
    if holder.kind is HolderKind.NAMESPACE:
        return f"{holder.path}, which is below it"
    if holder.path is not None:
        return holder.path + (f" as process {holder.pid} sees it" if holder.pid is not None else "")
    if holder.kind is HolderKind.CHILDREN:
        return f"the children to come of process {holder.pid}"
    return f"{'file' if holder.kind is HolderKind.DESCRIPTOR else holder.kind} {holder.number} of process {holder.pid}"


def _listed(names: Iterable[str], most: int) -> str:
    every = [escaped(name) for name in names]
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def wrapped(name: str, width: int, most: int) -> list[str]:
    """`name` in at most so many lines of about that many letters, broken where names have seams.

    Of one that is too long the middle is left out: names that begin alike end differently.
    """
    text = escaped(name)
    lines = list(_lines(text, width))
    if len(lines) > most:
        tail = text[-_fitting(text[::-1], width) :]
        lines = [*lines[: most - 2], lines[most - 2][: width - 1] + "…", tail]
    return lines


def _lines(rest: str, width: int) -> Iterator[str]:
    while rest:
        fitting = _fitting(rest, width)
        seams = [place + 1 for place in range(width // 2, fitting) if rest[place] in _SEAMS]
        cut = seams[-1] if seams and fitting < len(rest) else fitting
        yield rest[:cut]
        rest = rest[cut:]


def _fitting(text: str, width: int) -> int:
    """How many of its characters are as wide as `width` letters."""
    for place, c in enumerate(text):
        width -= 2 if unicodedata.east_asian_width(c) in "WF" else 1
        if width < 0:
            return max(place, 1)
    return len(text)
