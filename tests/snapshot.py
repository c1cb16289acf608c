"""What a process has open and which threads it has, and whether it has anything left to do."""

import contextlib
import gc
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nsbroker.model.identity import NamespaceType

_PAUSE = 0.01
# Only root may look at a thread that is just ending.  Others try again, this many times.
_TRIES = 500


@dataclass(frozen=True)
class Snapshot:
    """The fds of a process, and its threads with the namespaces of each."""

    fds: tuple[tuple[int, str], ...]
    threads: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, pid: int) -> Self:
        """Take the snapshot of the process `pid` as it is now."""
        for left in reversed(range(_TRIES)):
            try:
                return cls(tuple(open_files(pid)), tuple(sorted(_threads(pid))))
            except PermissionError:
                if not left:
                    raise
                time.sleep(_PAUSE)
        raise AssertionError("not reached")

    @classmethod
    def settled(cls, pid: int, seconds: float) -> Self:
        """Take the snapshot of the process `pid` once it has nothing left to do, but after `seconds` at the latest.

        A process closes descriptors, and ends threads, some time after it has sent a reply.  On a busy machine, that nothing
        changed for a moment may only mean that it did not get a processor.  So this waits until none of its threads, except the
        calling one, has run or wanted to run between two looks.
        """
        end = time.monotonic() + seconds
        while True:
            before, runs = cls.of(pid), _runs(pid)
            time.sleep(_PAUSE)
            now = cls.of(pid)
            if (now == before and runs is not None and runs == _runs(pid)) or time.monotonic() > end:
                return now

    def difference(self, other: "Snapshot") -> str:
        """Describe what is in only one of the two snapshots."""
        fds, threads = set(self.fds) ^ set(other.fds), set(self.threads) ^ set(other.threads)
        return f"fds {sorted(fds)}, threads {sorted(threads)}"


def open_files(pid: int) -> Iterator[tuple[int, str]]:
    """Yield each fd of a process, with what it refers to as /proc shows it."""
    for name in sorted(os.listdir(f"/proc/{pid}/fd"), key=int):
        with contextlib.suppress(FileNotFoundError):
            # The fd with which the folder was listed is closed by now.
            yield int(name), os.readlink(f"/proc/{pid}/fd/{name}")


def thread_names() -> list[str]:
    """Return the names of the threads of this process, as the kernel shows them."""
    names = []
    for path in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            names.append((path / "comm").read_text().rstrip("\n"))
    return names


def _threads(pid: int) -> Iterator[tuple[str, ...]]:
    own = _namespaces(pid, str(pid))
    for tid in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            namespaces = _namespaces(pid, tid)
            # A worker thread of trio waits for its next task for up to ten seconds, and one that closes descriptors for half a
            # second: harmless if its namespaces are right.
            if namespaces != own or not Path(f"/proc/{pid}/task/{tid}/comm").read_text().startswith(("Trio thread", "closing")):
                yield (tid, *namespaces)


def _namespaces(pid: int, tid: str) -> tuple[str, ...]:
    return tuple(os.readlink(f"/proc/{pid}/task/{tid}/ns/{ns_type}") for ns_type in NamespaceType)


def _runs(pid: int) -> dict[str, tuple[str, ...]] | None:
    """Return how often each thread was given a processor and lost it, or None when one of them runs or waits for a processor."""
    found: dict[str, tuple[str, ...]] = {}
    for tid in os.listdir(f"/proc/{pid}/task"):
        if tid == str(threading.get_native_id()):
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            status = Path(f"/proc/{pid}/task/{tid}/status").read_text()
            facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            if facts["State"].startswith("R"):
                return None
            found[tid] = (facts["voluntary_ctxt_switches"], facts["nonvoluntary_ctxt_switches"])
    return found


@contextlib.contextmanager
def no_garbage() -> Iterator[None]:
    """Check that the block leaves nothing that only a full collection frees."""
    gc.collect()
    gc.disable()
    try:
        yield
        assert gc.collect() == 0
    finally:
        gc.enable()
