"""Whose namespaces they are: the columns of a map.

The host, each container, each systemd unit; and what belongs to none of them, by what keeps it alive.  Units that are
where the host is are folded into its column; into that of a container its unit, and what the runtime calls it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from nsbroker.cli.formatting import namespace_id
from nsbroker.model.description import Holder, HolderKind, NamespaceDescription
from nsbroker.model.identity import NamespaceType

Key: TypeAlias = tuple[NamespaceType, int]
Cells: TypeAlias = dict[NamespaceType, NamespaceDescription]

_INIT = 1
# What the kernel makes first has numbers of its own (linux/nsfs.h); net and mnt since Linux 6.18.
_INITIAL = {
    NamespaceType.IPC: 0xEFFFFFFF,
    NamespaceType.UTS: 0xEFFFFFFE,
    NamespaceType.USER: 0xEFFFFFFD,
    NamespaceType.PID: 0xEFFFFFFC,
    NamespaceType.CGROUP: 0xEFFFFFFB,
    NamespaceType.TIME: 0xEFFFFFFA,
    NamespaceType.NET: 0xEFFFFFF9,
    NamespaceType.MNT: 0xEFFFFFF8,
}
# They run the containers of engines; each is asked by the ones before it.
_RUNTIMES = ("containerd", "runc", "crun")
# A descriptor with a path is the broker's own: what it holds under a name.
_WITH_PATHS = {
    HolderKind.MOUNT: "bound file",
    HolderKind.DESCRIPTOR: "held as",
    HolderKind.NAMESPACE: "what is above",
}
_OTHER_HOLDERS = {
    HolderKind.THREAD: "threads",
    HolderKind.CHILDREN: "children to come",
    HolderKind.DESCRIPTOR: "open files",
    HolderKind.SOCKET: "sockets",
}


@dataclass
class Column:
    """One column: `kind` stands above `name`; `also` are labels of what else is in the very same namespaces."""

    kind: str
    name: str
    cells: Cells = field(default_factory=dict)
    also: list[str] = field(default_factory=list)

    @property
    def is_host(self) -> bool:
        """Whether it is the host's."""
        return self.kind == ""

    @property
    def label(self) -> str:
        """Kind and name, in one line."""
        return f"{self.kind}{' ' if ' ' in self.kind else ':'}{self.name}" if self.kind else self.name

    @property
    def keys(self) -> frozenset[Key]:
        """Which namespaces it has."""
        return frozenset(map(key, self.cells.values()))


def key(space: NamespaceDescription) -> Key:
    """What tells a namespace from others."""
    return space.type, space.inode


def columns_of(spaces: Sequence[NamespaceDescription], types: Iterable[NamespaceType]) -> list[Column]:
    """The columns, of these types alone; the host's is the first, where there is one."""
    host = Column("", "host", _host(spaces))
    containers = _named(spaces, lambda space: space.containers, lambda space: _is_of(host, space))
    units = _named(spaces, lambda space: space.units, lambda space: 2 if space.containers else _is_of(host, space))
    made = _merged([_container(name, cells) for name, cells in containers.items()], host)
    for name, cells in units.items():
        unit = Column("unit", name, cells)
        same = [column for column in made if column.keys == unit.keys and column.kind != "unit"]
        if len(same) == 1:
            same[0].also.append(unit.label)
        else:
            made.append(unit)
    made += _rest(spaces, {one for column in (host, *made) for one in column.keys})
    return _shown(host, made, frozenset(types))


def _host(spaces: Iterable[NamespaceDescription]) -> Cells:
    """Where the first process is; where nobody may look at that, what the kernel made first."""
    cells: Cells = {}
    for space in spaces:
        if space.process is not None and space.process.pid == _INIT:
            cells[space.type] = space
    for space in spaces:
        if _INITIAL[space.type] == space.inode:
            cells.setdefault(space.type, space)
    return cells


def _is_of(column: Column, space: NamespaceDescription) -> int:
    return int(space.type in column.cells and key(column.cells[space.type]) == key(space))


def _named(
    spaces: Iterable[NamespaceDescription],
    names: Callable[[NamespaceDescription], Iterable[str] | None],
    rank: Callable[[NamespaceDescription], int],
) -> Mapping[str, Cells]:
    """One namespace of each type for each name: of the lowest rank, and of these the one whose leader came first."""
    found: dict[str, Cells] = {}
    for space in sorted(spaces, key=lambda space: (rank(space), _leader(space))):
        for name in names(space) or ():
            found.setdefault(name, {}).setdefault(space.type, space)
    return found


def _leader(space: NamespaceDescription) -> tuple[float, int]:
    return space.process.pid if space.process else float("inf"), space.inode


def _container(name: str, cells: Cells) -> Column:
    engine, _, own = name.partition(":")
    return Column(engine, own, cells) if own else Column("container", name, cells)


def _merged(containers: Iterable[Column], host: Column) -> list[Column]:
    """Each once: runtimes know the containers of engines, too.  Two containers never have the same mounts."""
    made: list[Column] = []
    known: dict[frozenset[Key], Column] = {}
    for column in sorted(containers, key=lambda column: _RUNTIMES.index(column.kind) if column.kind in _RUNTIMES else -1):
        mounts = column.cells.get(NamespaceType.MNT)
        has_own = mounts is not None and not _is_of(host, mounts)
        if has_own and column.kind in _RUNTIMES and column.keys in known:
            known[column.keys].also.append(column.label)
        else:
            made.append(column)
            if has_own:
                known.setdefault(column.keys, column)
    return made


def _rest(spaces: Iterable[NamespaceDescription], placed: set[Key]) -> list[Column]:
    """Columns of what has none yet.  Several of a type under one name get one each."""
    made: list[Column] = []
    by_name: dict[tuple[str, str], list[Column]] = defaultdict(list)
    # How many columns of a name have a namespace of a type: the first ones.
    taken: Counter[tuple[str, str, str]] = Counter()
    for space in sorted(spaces, key=_leader):
        if key(space) in placed:
            continue
        kind, name = _keeper(space)
        columns = by_name[kind, name]
        place = taken[kind, name, space.type]
        taken[kind, name, space.type] += 1
        if place == len(columns):
            columns.append(Column(kind, name))
            made.append(columns[place])
        columns[place].cells[space.type] = space
    return made


def _keeper(space: NamespaceDescription) -> tuple[str, str]:
    """By what a namespace is called that is not the host's."""
    if space.containers:
        one = _container(space.containers[0], {})
        return one.kind, one.name
    if space.units:
        return "unit", space.units[0]
    holders = sorted(space.holders or (), key=_nearness)
    if space.process is not None and not (holders and _nearness(holders[0])[0] == 0):
        return f"process {space.process.pid}", _program(space.process.command)
    if not holders:
        return "of others", namespace_id(space)
    first = holders[0]
    if first.path is not None:
        return _WITH_PATHS.get(first.kind, first.kind), first.path
    return f"process {first.pid}", _OTHER_HOLDERS.get(first.kind, first.kind)


def _program(command: str) -> str:
    """`sleep` of `/usr/bin/sleep 100`."""
    first, *_ = command.split(maxsplit=1) or [""]
    return first.rstrip("/").rpartition("/")[2] or command


def _nearness(holder: Holder) -> tuple[int, int, str, int]:
    """What names a namespace best comes first: a name that all know, a file that one process sees, a process."""
    rank = 3 if holder.kind is HolderKind.NAMESPACE else 2 if holder.path is None else 0 if holder.pid is None else 1
    path = holder.path or ""
    return rank, len(path), path, holder.pid or 0


def _shown(host: Column, others: Iterable[Column], types: frozenset[NamespaceType]) -> list[Column]:
    shown = []
    for column in (host, *others):
        column.cells = {kind: space for kind, space in column.cells.items() if kind in types}
        if column.kind == "unit" and column.keys <= host.keys:
            host.also += [column.label] if column.cells else []
        elif column.cells:
            shown.append(column)
    for column in shown:
        column.also.sort()
    return shown
