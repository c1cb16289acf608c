"""The state files of an engine, read only where nobody but the user who runs the engine can write them."""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self, TypeVar

import msgspec
import trio

from nsbroker.daemon.engines.decoding import DECODE_ERRORS
from nsbroker.daemon.ownership import find_fault
from nsbroker.errors import EngineUnavailable
from nsbroker.linux import file_system
from nsbroker.linux.openat2 import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2

T = TypeVar("T")
A = TypeVar("A")

_FILE_MAX = 4 * 1024 * 1024
_QUICK_MAX = 128 * 1024
_MEMORY = "/run"
_BELOW = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
_TRIES = 5
_PAUSE = 0.01
_threads = trio.CapacityLimiter(8)


class TrustedDirectory:
    """A directory of `engine`, which the uid `user` runs.  No link below it is followed.  A context manager that closes it."""

    def __init__(self, path: Path, user: int, engine: str, *, quick: bool = False) -> None:
        """Open `path`.  Raises OSError, and EngineUnavailable when others than `user` could have written there.

        With `quick`, reading never blocks, so it may be done on the event loop.  Then it is also an error when `path` is not on
        the tmpfs of /run, and when a file is larger than 128 KiB, or is only half written.
        """
        self._path = path
        self._user = user
        self._engine = engine
        self._file_max, self._tries = (_QUICK_MAX, 1) if quick else (_FILE_MAX, _TRIES)
        self._fd = _open_in_memory(path) if quick else os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._check(os.fstat(self._fd), path)
        except BaseException:
            self.close()
            raise

    def names(self, below: str = ".", beginning: str = "") -> list[str]:
        """List the names in the directory `below` that begin with `beginning`; none when there is no such directory."""
        try:
            fd = openat2(below, os.O_RDONLY | os.O_DIRECTORY, resolve=_BELOW, dir_fd=self._fd)
        except FileNotFoundError:
            return []
        try:
            return sorted(name for name in os.listdir(fd) if name.startswith(beginning))
        finally:
            os.close(fd)

    def read(self, name: str) -> bytes | None:
        """Return the contents of a file below the directory; None when there is no such file.

        Raises OSError, and EngineUnavailable for a file that is too large, not a plain one, or that others could have written.
        """
        fd = self._open(name)
        if fd is None:
            return None
        with open(fd, "rb") as file:
            text = file.read(self._file_max + 1)
        if len(text) > self._file_max:
            raise EngineUnavailable(self._engine, f"{self._path / name} is larger than {self._file_max} bytes")
        return text

    def load(self, name: str, decoder: msgspec.json.Decoder[T]) -> T | None:
        """Return the decoded contents of a file; None when there is no such file.

        A file that cannot be decoded may be half written, so it is read up to five times.  Raises like `read`, and
        EngineUnavailable when the contents make no sense.
        """
        for left in reversed(range(self._tries)):
            text = self.read(name)
            if text is None:
                return None
            try:
                return decoder.decode(text)
            except DECODE_ERRORS as error:
                if not left:
                    raise EngineUnavailable(self._engine, f"{self._path / name} makes no sense: {error}") from error
            time.sleep(_PAUSE)
        return None

    def facts(self, name: str) -> os.stat_result | None:
        """Return what stat(2) says of a file below the directory; None when there is no such file."""
        try:
            fd = openat2(name, os.O_PATH, resolve=_BELOW, dir_fd=self._fd)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def _open(self, name: str) -> int | None:
        try:
            # Without O_NONBLOCK, opening a FIFO would block until somebody writes to it.
            fd = openat2(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, resolve=_BELOW, dir_fd=self._fd)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode):
                raise EngineUnavailable(self._engine, f"{self._path / name} is no plain file")
            self._check(facts, self._path / name)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _check(self, facts: os.stat_result, path: Path) -> None:
        fault = find_fault(path, facts, (self._user,))
        if fault is not None:
            raise EngineUnavailable(self._engine, f"{path} {fault.reason}")

    def close(self) -> None:
        """Close the directory."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open_in_memory(path: Path) -> int:
    """Open the directory `path` and return an O_PATH fd (the caller's).  Raises EXDEV unless it is on the tmpfs of /run.

    The kernel refuses before it asks any other file system, which could block.
    """
    memory = os.open(_MEMORY, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        below = os.path.relpath(path, _MEMORY)
        if file_system.magic(memory) != file_system.TMPFS:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(path))
        return openat2(below, os.O_PATH | os.O_DIRECTORY, resolve=_BELOW, dir_fd=memory)
    finally:
        os.close(memory)


def beginning_with(names: list[str], word: str) -> Iterator[str]:
    """Yield `word` alone when it is one of `names`, else those names that begin with it."""
    yield from [word] if word in names else [name for name in names if name.startswith(word)]


def read_each(read: Callable[[str], T | None], names: Iterable[str], wanted: str = "") -> Iterator[T]:
    """Yield what `read` returns for each of `names`, except None.

    A name that cannot be read (its files are damaged, belong to somebody else, or are being written for too long) does not hide
    the others.  It is an error only when it is the very one that is `wanted`.
    """
    for name in names:
        try:
            found = read(name)
        except (EngineUnavailable, OSError):
            if name == wanted:
                raise
            continue
        if found is not None:
            yield found


async def in_thread(function: Callable[[A], T], argument: A) -> T:
    """Return `function(argument)`, which reads files, run on a thread so that the event loop does not wait.

    The thread is abandoned when the caller is cancelled.
    """
    return await trio.to_thread.run_sync(function, argument, abandon_on_cancel=True, limiter=_threads)
