"""The details that a chart shows of a namespace or a column: lines of plain text, with all names escaped."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from nsbroker.cli.drawing.grouping import Column
from nsbroker.cli.formatting import namespace_id
from nsbroker.model.description import NamespaceDescription, Reference, ReferenceKind
from nsbroker.model.identity import format_id
from nsbroker.model.text import escaped

_MOST_NAMES = 40
_MOST_REFERENCES = 10
_SEPARATORS = frozenset("/-_.:@ ")


def about_namespace(ns: NamespaceDescription, sharers: Sequence[str]) -> Iterator[str]:
    """Yield the id of the namespace, and then lines such as `processes: 3`."""
    yield namespace_id(ns)
    yield f"{'shared by' if len(sharers) > 1 else 'of'}: {_join_names(sharers, _MOST_NAMES)}"
    yield f"processes: {ns.processes}"
    if ns.process is not None:
        uid = f" (uid {ns.process.uid})" if ns.process.uid is not None else ""
        yield escaped(f"leader: {ns.process.pid} {ns.process.command}{uid}")
    if ns.references:
        yield f"used by: {_join_names(map(_describe_reference, ns.references), _MOST_REFERENCES)}"
    owner = [] if ns.owner_uid is None else [f"uid {ns.owner_uid}"]
    owner += [] if ns.owner is None else [format_id("user", ns.owner)]
    if owner:
        yield f"owner: {', '.join(owner)}"
    if ns.parent is not None:
        yield f"parent: {format_id(ns.type, ns.parent)}"


def about_column(column: Column) -> Iterator[str]:
    """Yield the name of the column, and then lines such as `namespaces: ...`."""
    yield escaped(column.label)
    yield f"namespaces: {_join_names(map(namespace_id, column.cells.values()), _MOST_NAMES)}"
    if column.also:
        yield f"{unit_count(column) if column.is_host else 'also'}: {_join_names(column.also, len(column.also))}"


def unit_count(column: Column) -> str:
    """Return the number of units that are in the same namespaces as the host, in words."""
    return f"{len(column.also)} {'units' if len(column.also) > 1 else 'unit'}"


def _describe_reference(reference: Reference) -> str:
    if reference.kind is ReferenceKind.NAMESPACE:
        return f"{reference.path}, its child or owned by it"
    if reference.path is not None:
        return reference.path + (f" as process {reference.pid} sees it" if reference.pid is not None else "")
    if reference.kind is ReferenceKind.CHILDREN:
        return f"future children of process {reference.pid}"
    return (
        f"{'file' if reference.kind is ReferenceKind.DESCRIPTOR else reference.kind} {reference.number} of process {reference.pid}"
    )


def _join_names(names: Iterable[str], most: int) -> str:
    every = [escaped(name) for name in names]
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def wrap_name(name: str, width: int, most: int) -> list[str]:
    """Break `name` into at most `most` lines of about `width` letters, preferably after a separator such as `/` or `-`.

    If it is too long, the middle is left out, because names that start alike usually differ at the end.
    """
    text = escaped(name)
    lines = list(_split_lines(text, width))
    if len(lines) > most:
        tail = text[-_count_fitting(text[::-1], width) :]
        lines = [*lines[: most - 2], lines[most - 2][: width - 1] + "…", tail]
    return lines


def _split_lines(rest: str, width: int) -> Iterator[str]:
    while rest:
        fitting = _count_fitting(rest, width)
        breaks = [place + 1 for place in range(width // 2, fitting) if rest[place] in _SEPARATORS]
        cut = breaks[-1] if breaks and fitting < len(rest) else fitting
        yield rest[:cut]
        rest = rest[cut:]


def _count_fitting(text: str, width: int) -> int:
    """Return how many characters of `text` fit into `width` letters, at least one.  Wide characters take two."""
    for place, c in enumerate(text):
        width -= 2 if unicodedata.east_asian_width(c) in "WF" else 1
        if width < 0:
            return max(place, 1)
    return len(text)
