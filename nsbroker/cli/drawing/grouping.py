"""Group namespaces by who uses them: the columns of a chart.

There is a column for the host, for each container and for each systemd unit.  Namespaces that none of them uses get columns
named after what keeps them alive.  Units in the same namespaces as the host are listed in the host's column.  The column of
a container also lists the container's unit and the names that its runtime gives it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from msgspec import Struct

from nsbroker.cli.formatting import namespace_id
from nsbroker.model.description import NamespaceDescription, Reference, ReferenceKind
from nsbroker.model.identity import NamespaceType

Key: TypeAlias = tuple[NamespaceType, int]
Cells: TypeAlias = dict[NamespaceType, NamespaceDescription]

_INIT = 1
# The inode numbers of the initial namespaces are fixed (linux/nsfs.h); those of net and mnt since Linux 6.18.
_INITIAL_INODES = {
    NamespaceType.IPC: 0xEFFFFFFF,
    NamespaceType.UTS: 0xEFFFFFFE,
    NamespaceType.USER: 0xEFFFFFFD,
    NamespaceType.PID: 0xEFFFFFFC,
    NamespaceType.CGROUP: 0xEFFFFFFB,
    NamespaceType.TIME: 0xEFFFFFFA,
    NamespaceType.NET: 0xEFFFFFF9,
    NamespaceType.MNT: 0xEFFFFFF8,
}
# Engines run their containers with these runtimes, and containerd runs its containers with runc or crun.
_RUNTIMES = ("containerd", "runc", "crun")
# A descriptor with a path is the broker's own: it belongs to a namespace that the broker holds under a name.
_KINDS_WITH_PATH = {
    ReferenceKind.MOUNT: "bound file",
    ReferenceKind.DESCRIPTOR: "held as",
    ReferenceKind.NAMESPACE: "parent or owner of",
}
_KINDS_WITHOUT_PATH = {
    ReferenceKind.THREAD: "threads",
    ReferenceKind.CHILDREN: "future children",
    ReferenceKind.DESCRIPTOR: "open files",
    ReferenceKind.SOCKET: "sockets",
}


class Column(Struct):
    """A column.  `kind` is printed above `name`; `also` has the labels of units and containers in exactly the same namespaces."""

    kind: str
    name: str
    cells: Cells = {}
    also: list[str] = []

    @property
    def is_host(self) -> bool:
        """Whether this is the host's column."""
        return self.kind == ""

    @property
    def label(self) -> str:
        """Kind and name in one line, such as `docker:web`."""
        return f"{self.kind}{' ' if ' ' in self.kind else ':'}{self.name}" if self.kind else self.name

    @property
    def keys(self) -> frozenset[Key]:
        """The keys of its namespaces."""
        return frozenset(map(key, self.cells.values()))


def key(ns: NamespaceDescription) -> Key:
    """Return the type and inode, which identify a namespace."""
    return ns.type, ns.inode


def columns_of(namespaces: Sequence[NamespaceDescription], types: Iterable[NamespaceType]) -> list[Column]:
    """Return the columns, with namespaces of `types` only.  The host's column, if there is one, is the first."""
    host = Column("", "host", _host_namespaces(namespaces))
    containers = _group_by_name(namespaces, lambda ns: ns.containers, lambda ns: _is_in(host, ns))
    units = _group_by_name(namespaces, lambda ns: ns.units, lambda ns: 2 if ns.containers else _is_in(host, ns))
    columns = _merge_containers([_container_column(name, cells) for name, cells in containers.items()], host)
    by_keys: dict[frozenset[Key], list[Column]] = defaultdict(list)
    for column in columns:
        by_keys[column.keys].append(column)
    for name, cells in units.items():
        unit = Column("unit", name, cells)
        same = by_keys.get(unit.keys, [])
        if len(same) == 1:
            same[0].also.append(unit.label)
        else:
            columns.append(unit)
    columns += _group_rest(namespaces, {one for column in (host, *columns) for one in column.keys})
    return _select(host, columns, frozenset(types))


def _host_namespaces(namespaces: Iterable[NamespaceDescription]) -> Cells:
    """Return the namespaces of process 1, or the initial namespaces for types of which process 1 cannot be seen."""
    cells: Cells = {}
    for ns in namespaces:
        if ns.process is not None and ns.process.pid == _INIT:
            cells[ns.type] = ns
    for ns in namespaces:
        if _INITIAL_INODES[ns.type] == ns.inode:
            cells.setdefault(ns.type, ns)
    return cells


def _is_in(column: Column, ns: NamespaceDescription) -> int:
    return int(ns.type in column.cells and key(column.cells[ns.type]) == key(ns))


def _group_by_name(
    namespaces: Iterable[NamespaceDescription],
    names: Callable[[NamespaceDescription], Iterable[str] | None],
    rank: Callable[[NamespaceDescription], int],
) -> Mapping[str, Cells]:
    """Choose one namespace of each type for each name: the one of the lowest rank, or of equals the one with the lowest pid."""
    found: dict[str, Cells] = {}
    for ns in sorted(namespaces, key=lambda ns: (rank(ns), _leader(ns))):
        for name in names(ns) or ():
            found.setdefault(name, {}).setdefault(ns.type, ns)
    return found


def _leader(ns: NamespaceDescription) -> tuple[float, int]:
    return ns.process.pid if ns.process else float("inf"), ns.inode


def _container_column(name: str, cells: Cells) -> Column:
    engine, _, own = name.partition(":")
    return Column(engine, own, cells) if own else Column("container", name, cells)


def _merge_containers(containers: Iterable[Column], host: Column) -> list[Column]:
    """Return each container once, although an engine and its runtime both list it.

    Columns are the same container when all their namespaces are, and the mnt namespace is not the host's: two containers never
    share that one.
    """
    made: list[Column] = []
    known: dict[frozenset[Key], Column] = {}
    for column in sorted(containers, key=lambda column: _RUNTIMES.index(column.kind) if column.kind in _RUNTIMES else -1):
        mounts = column.cells.get(NamespaceType.MNT)
        has_own = mounts is not None and not _is_in(host, mounts)
        if has_own and column.kind in _RUNTIMES and column.keys in known:
            known[column.keys].also.append(column.label)
        else:
            made.append(column)
            if has_own:
                known.setdefault(column.keys, column)
    return made


def _group_rest(namespaces: Iterable[NamespaceDescription], placed: set[Key]) -> list[Column]:
    """Return columns for namespaces that are in no column yet.

    Namespaces with the same heading share a column; a second one of the same type starts a new column.
    """
    made: list[Column] = []
    by_name: dict[tuple[str, str], list[Column]] = defaultdict(list)
    # For each name and type: how many columns, counted from the first, already have a namespace of that type.
    taken: Counter[tuple[str, str, str]] = Counter()
    for ns in sorted(namespaces, key=_leader):
        if key(ns) in placed:
            continue
        kind, name = _choose_heading(ns)
        columns = by_name[kind, name]
        place = taken[kind, name, ns.type]
        taken[kind, name, ns.type] += 1
        if place == len(columns):
            columns.append(Column(kind, name))
            made.append(columns[place])
        columns[place].cells[ns.type] = ns
    return made


def _choose_heading(ns: NamespaceDescription) -> tuple[str, str]:
    """Return the kind and name of the column for a namespace: its container, unit, process or reference."""
    if ns.containers:
        one = _container_column(ns.containers[0], {})
        return one.kind, one.name
    if ns.units:
        return "unit", ns.units[0]
    references = sorted(ns.references or (), key=_reference_rank)
    if ns.process is not None and not (references and _reference_rank(references[0])[0] == 0):
        return f"process {ns.process.pid}", _program(ns.process.command)
    if not references:
        return "used by others", namespace_id(ns)
    first = references[0]
    if first.path is not None:
        return _KINDS_WITH_PATH.get(first.kind, first.kind), first.path
    return f"process {first.pid}", _KINDS_WITHOUT_PATH.get(first.kind, first.kind)


def _program(command: str) -> str:
    """Return the name of the program in a command line: `sleep` of `/usr/bin/sleep 100`."""
    first, *_ = command.split(maxsplit=1) or [""]
    return first.rstrip("/").rpartition("/")[2] or command


def _reference_rank(reference: Reference) -> tuple[int, int, str, int]:
    """Return a sort key that puts the most informative reference first.

    The order is: a path that the broker sees, a path that only one process sees, a process, a child namespace.
    """
    rank = 3 if reference.kind is ReferenceKind.NAMESPACE else 2 if reference.path is None else 0 if reference.pid is None else 1
    path = reference.path or ""
    return rank, len(path), path, reference.pid or 0


def _select(host: Column, others: Iterable[Column], types: frozenset[NamespaceType]) -> list[Column]:
    shown = []
    for column in (host, *others):
        column.cells = {ns_type: ns for ns_type, ns in column.cells.items() if ns_type in types}
        if column.kind == "unit" and column.keys <= host.keys:
            host.also += [column.label] if column.cells else []
        elif column.cells:
            shown.append(column)
    for column in shown:
        column.also.sort()
    return shown
