"""What /proc shows of all processes at once: see proc(5).

Numbers read here mean little by the time they are used: they say where to look.  What has ended meanwhile, or may not be
looked at, is left out.  Nothing here opens what a process has open; all the same reading of a process that is in the midst
of execve(2), or of its memory (`command_line`), waits for as long as that process likes: call it from a thread that can be
spared.
"""

import os
from collections.abc import Callable, Container, Iterator, Sequence
from typing import NamedTuple

DETACHED = frozenset(("/",))
"""The link of an open file that was opened through a bind mount which is gone by now; root directories have the same."""

_KERNEL_THREAD = 0x00200000  # PF_KTHREAD
_SOME = 4096


class Facts(NamedTuple):
    """Of a process: its numbers, its name, when it started (clock ticks since boot), and whether it is the kernel's own."""

    pid: int
    parent: int
    threads: int
    start_time: int
    name: str
    is_kernels: bool


def process_ids() -> list[int]:
    """The numbers of all processes that can be seen, ascending."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def read_facts(pid: int) -> Facts | None:
    """Field by field from `stat`; None when the process has gone."""
    try:
        text = _read(f"/proc/{pid}/stat")
    except OSError:
        return None
    # The name in field 2 may hold spaces, parentheses and anything else: what follows its last ')' is field 3.
    head, _, tail = text.rpartition(b")")
    fields = tail.split()
    if len(fields) < 20:
        return None
    name = head.partition(b"(")[2].decode(errors="backslashreplace")
    return Facts(pid, int(fields[1]), int(fields[17]), int(fields[19]), name, bool(int(fields[6]) & _KERNEL_THREAD))


def links(directory: str, kinds: Sequence[str]) -> tuple[str, ...] | None:
    """The namespaces, as `net:[4026531840]`, of a process or thread by its folder in /proc; None when that has gone."""
    try:
        return tuple([os.readlink(f"{directory}/ns/{kind}") for kind in kinds])
    except OSError:
        return None


def link(directory: str, kind: str) -> str | None:
    """One of them; `pid_for_children` has none until the first child was born."""
    try:
        return os.readlink(f"{directory}/ns/{kind}")
    except OSError:
        return None


def threads(pid: int) -> Iterator[int]:
    """The numbers of its threads but the first."""
    return (int(name) for name in _names(f"/proc/{pid}/task") if name != str(pid))


def descriptors(
    pid: int, paths: Container[str] = (), limited: Callable[[Iterator[str]], Iterator[str]] = lambda names: names
) -> Iterator[tuple[int, str]]:
    """Number and link of each of its open files that is nowhere on disk: `net:[4026531840]`, `socket:[17]`, `pipe:[18]`; and
    of those with one of `paths`.  `limited` may leave some out before they are looked at.
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
    """Namespace and mount point, as the process or thread sees it, of each namespace that is bound to a file there.

    `go_on` is asked before each piece of the table (64 kilobytes at most) but the first whether to read it.
    """
    try:
        for line in _lines(f"{directory}/mountinfo", go_on):
            if b" - nsfs " in line:
                fields = line.split(b" ", 5)
                yield os.fsdecode(fields[3]), os.fsdecode(_unescape(fields[4]))
    except OSError:
        return


def command_line(pid: int) -> str:
    """Its command, arguments with a space between; its name when it has none (a kernel thread, a zombie).  Empty when it has
    gone.  What is no text is written as escapes.
    """
    try:
        words = _read(f"/proc/{pid}/cmdline").rstrip(b"\0").replace(b"\0", b" ")
        words = words or _read(f"/proc/{pid}/comm").rstrip(b"\n")
    except OSError:
        return ""
    return words.decode(errors="backslashreplace")


def owner(pid: int) -> int | None:
    """The uid that /proc shows as the owner of the process; None when it has gone."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def _names(folder: str) -> Iterator[str]:
    # One by one: a process may have a million of them.
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                yield entry.name
    except OSError:
        return


def _read(path: str) -> bytes:
    """The first piece, which of a small file is all."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _SOME)
    finally:
        os.close(fd)


def _lines(path: str, go_on: Callable[[], bool]) -> Iterator[bytes]:
    """Line by line to the end: a table of the kernel's comes in short pieces, and may be larger than is good to keep."""
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
    # Space, tab, newline and backslash stand as three octal digits.
    for code in (b"040", b"011", b"012", b"134"):
        point = point.replace(b"\\" + code, bytes([int(code, 8)]))
    return point


def control_groups(pid: int) -> bytes:
    """Its control groups, as `cgroup` has them; empty when it has gone."""
    try:
        return _read(f"/proc/{pid}/cgroup")
    except OSError:
        return b""
