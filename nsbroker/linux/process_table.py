"""Reading what /proc shows of all processes: see proc(5).

A PID can belong to another process by the time it is used, so the numbers read here only say where to look.  Processes that
have ended meanwhile, or that the caller may not inspect, are left out.  These functions never open the files that a process
has open.  Nevertheless they can block for as long as a process wants, while it is inside execve(2), or when its memory is
read (`command_line`): call them on an abandonable thread.
"""

import os
from collections.abc import Callable, Container, Iterator, Sequence
from typing import NamedTuple

DETACHED = frozenset(("/",))
"""The link of an open file whose bind mount is gone by now.  The link of an open root directory is the same."""

_KERNEL_THREAD = 0x00200000  # PF_KTHREAD
_SOME = 4096


class Facts(NamedTuple):
    """Facts of a process from /proc/PID/stat; `start_time` is in clock ticks since boot."""

    pid: int
    parent: int
    threads: int
    start_time: int
    name: str
    is_kernel_thread: bool


def process_ids() -> list[int]:
    """Return the PIDs of all visible processes in ascending order."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def read_facts(pid: int) -> Facts | None:
    """Read the facts of a process from `stat`; None when it is gone."""
    try:
        text = _read(f"/proc/{pid}/stat")
    except OSError:
        return None
    # The name in field 2 can contain any character, also spaces and parentheses.  Field 3 begins after the last ')'.
    head, _, tail = text.rpartition(b")")
    fields = tail.split()
    if len(fields) < 20:
        return None
    name = head.partition(b"(")[2].decode(errors="backslashreplace")
    return Facts(pid, int(fields[1]), int(fields[17]), int(fields[19]), name, bool(int(fields[6]) & _KERNEL_THREAD))


def links(directory: str, ns_types: Sequence[str]) -> tuple[str, ...] | None:
    """Read the namespace links of a process or thread, such as `net:[4026531840]`, in the order of `ns_types`.

    `directory` is its folder in /proc.  Returns None when the process or thread is gone.
    """
    try:
        return tuple([os.readlink(f"{directory}/ns/{ns_type}") for ns_type in ns_types])
    except OSError:
        return None


def link(directory: str, ns_type: str) -> str | None:
    """Read one namespace link of a process or thread; None when there is none.

    The link `pid_for_children` can be read only after the first child was created in that namespace.
    """
    try:
        return os.readlink(f"{directory}/ns/{ns_type}")
    except OSError:
        return None


def threads(pid: int) -> Iterator[int]:
    """Yield the TIDs of all threads of the process except the first."""
    return (int(name) for name in _names(f"/proc/{pid}/task") if name != str(pid))


def descriptors(
    pid: int, paths: Container[str] = (), limited: Callable[[Iterator[str]], Iterator[str]] = lambda names: names
) -> Iterator[tuple[int, str]]:
    """Yield the number and the link of each open file that has no path: `net:[4026531840]`, `socket:[17]`, `pipe:[18]`.

    Files whose link is one of `paths` are yielded too.  `limited` can leave out names before their links are read.
    """
    folder = f"/proc/{pid}/fd"
    for name in limited(_names(folder)):
        try:
            text = os.readlink(f"{folder}/{name}")
        except OSError:
            continue
        if (text[-1:] == "]" and text[0] != "/") or text in paths:
            yield int(name), text


def bound_namespaces(directory: str, go_on: Callable[[], bool] = lambda: True) -> Iterator[tuple[str, str]]:
    """Yield each namespace that is bind-mounted in the mount namespace of the process or thread, with its mount point.

    The mount point is a path as the process or thread sees it.  The table is read in pieces of at most 64 kilobytes; before
    each piece except the first, `go_on` is called, and reading stops when it returns false.
    """
    try:
        for line in _lines(f"{directory}/mountinfo", go_on):
            if b" - nsfs " in line:
                fields = line.split(b" ", 5)
                yield os.fsdecode(fields[3]), os.fsdecode(_unescape(fields[4]))
    except OSError:
        return


def command_line(pid: int) -> str:
    """Return the command line of a process, with the arguments separated by spaces.

    A process without one (a kernel thread, a zombie) is shown by its name.  The result is empty when the process is gone.
    Bytes that are not UTF-8 are shown as escapes.
    """
    try:
        words = _read(f"/proc/{pid}/cmdline").rstrip(b"\0").replace(b"\0", b" ")
        words = words or _read(f"/proc/{pid}/comm").rstrip(b"\n")
    except OSError:
        return ""
    return words.decode(errors="backslashreplace")


def owner(pid: int) -> int | None:
    """Return the uid that /proc shows as the owner of the process; None when it is gone."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def _names(folder: str) -> Iterator[str]:
    # Yield one name at a time, because a process can have a million of them.
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                yield entry.name
    except OSError:
        return


def _read(path: str) -> bytes:
    """Read the first 4096 bytes of a file, which is the whole of a small one."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _SOME)
    finally:
        os.close(fd)


def _lines(path: str, go_on: Callable[[], bool]) -> Iterator[bytes]:
    """Yield the lines of a file, reading it piece by piece.

    The kernel returns its tables in short pieces, and a whole table can be too large to keep in memory.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        rest = b""
        piece = os.read(fd, 16 * _SOME)
        while piece:
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines
            piece = os.read(fd, 16 * _SOME) if go_on() else b""
    finally:
        os.close(fd)


def _unescape(point: bytes) -> bytes:
    # The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
    for code in (b"040", b"011", b"012", b"134"):
        point = point.replace(b"\\" + code, bytes([int(code, 8)]))
    return point


def control_groups(pid: int) -> bytes:
    """Return the whole lines among the first 4096 bytes of /proc/PID/cgroup; empty when the process is gone.

    Each line is `hierarchy:controllers:path`.  Paths can be long, and version 1 has a line for each hierarchy, so the last line can
    be cut off.  Such a line is left out: it would name another control group.
    """
    try:
        text = _read(f"/proc/{pid}/cgroup")
    except OSError:
        return b""
    return text[: text.rfind(b"\n") + 1]
