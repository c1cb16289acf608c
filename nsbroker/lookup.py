"""Finding a namespace by its id alone, wherever something keeps it alive: bind mounts, processes, threads, open fds.

A namespace is only ever what an opened descriptor shows it to be: links and mount tables merely say where to look.
"""

import os
from collections.abc import Iterator

from nsbroker.errors import NoSuchTarget, NsbrokerError
from nsbroker.identity import NamespaceId
from nsbroker.namespace import Namespace


def find(wanted: NamespaceId) -> Namespace:
    """A handle of the namespace `wanted`.  Reads much of /proc: milliseconds, more on a host of thousands of processes.

    Raises NoSuchTarget when nothing that the caller may look at keeps it alive.
    """
    for places in (_mounts, _processes, _threads, _descriptors):
        for path in places(wanted):
            try:
                handle = Namespace.from_path(path)
            except NsbrokerError:
                continue
            if handle.id.matches(wanted):
                return handle
            handle.close()
    raise NoSuchTarget(str(wanted), "no process, thread, open file or mount that can be seen from here keeps it alive")


def _names(directory: str) -> list[str]:
    # What ends meanwhile, or may not be looked at, has nothing to show.
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _links(paths: Iterator[str], wanted: NamespaceId) -> Iterator[str]:
    text = str(wanted)
    for path in paths:
        try:
            if os.readlink(path) == text:
                yield path
        except OSError:
            continue


def _pids() -> list[str]:
    return [name for name in _names("/proc") if name.isdigit()]


def _processes(wanted: NamespaceId) -> Iterator[str]:
    return _links((f"/proc/{pid}/ns/{wanted.type}" for pid in _pids()), wanted)


def _threads(wanted: NamespaceId) -> Iterator[str]:
    kinds = (wanted.type, f"{wanted.type}_for_children") if wanted.type in ("pid", "time") else (wanted.type,)
    tasks = (f"/proc/{pid}/task/{tid}" for pid in _pids() for tid in _names(f"/proc/{pid}/task"))
    return _links((f"{task}/ns/{kind}" for task in tasks for kind in kinds), wanted)


def _descriptors(wanted: NamespaceId) -> Iterator[str]:
    return _links((f"/proc/{pid}/fd/{fd}" for pid in _pids() for fd in _names(f"/proc/{pid}/fd")), wanted)


def _mounts(wanted: NamespaceId) -> Iterator[str]:
    seen: set[str] = set()
    for pid in ("self", *_pids()):
        try:
            space = os.readlink(f"/proc/{pid}/ns/mnt")
            if space in seen:
                continue
            seen.add(space)
            with open(f"/proc/{pid}/mountinfo", "rb") as lines:
                points = [fields[4] for fields in map(bytes.split, lines) if fields[3] == str(wanted).encode()]
        except OSError:
            continue
        yield from (f"/proc/{pid}/root{os.fsdecode(_unescape(point))}" for point in points)


def _unescape(point: bytes) -> bytes:
    # proc(5): space, tab, newline and backslash stand as three octal digits.
    for code in (b"040", b"011", b"012", b"134"):
        point = point.replace(b"\\" + code, bytes([int(code, 8)]))
    return point
