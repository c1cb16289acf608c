"""Writing without waiting, to each kind of file that standard error can be, while others share it."""

import contextlib
import errno
import os
import pty
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nsbroker.linux.nowait_writer import NowaitWriter

LINE = b"x" * 3000


def close_all(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        close_all(reader, writer)


@contextlib.contextmanager
def stream() -> Iterator[tuple[int, int]]:
    reader, writer = socket.socketpair()
    with reader, writer:
        yield reader.fileno(), writer.fileno()


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    reader, writer = pty.openpty()
    try:
        yield reader, writer
    finally:
        close_all(reader, writer)


def fill(writer: NowaitWriter, line: bytes) -> int:
    """Write until there is no room, and return the number of bytes.

    A terminal takes 4096 of them, a pipe 65536, and a socket about 200 kB.
    """
    written = 0
    with contextlib.suppress(BlockingIOError):
        for _ in range(1000):
            written += writer.write(line)
        raise AssertionError(f"it took {written} bytes and was not full")
    return written


@pytest.fixture(params=[True, False], ids=["with RWF_NOWAIT", "without"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The kernel as it is, and one that does not know the flag for any file: a fake, because Linux 6.3 is not here."""
    if not request.param:

        def refuse(*_: Any) -> int:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        monkeypatch.setattr(os, "pwritev", refuse)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("make", [pipe, stream, terminal], ids=lambda make: make.__name__)
def test_it_never_waits_and_goes_on_when_there_is_room_again(
    make: Callable[[], contextlib.AbstractContextManager[tuple[int, int]]],
) -> None:
    with make() as (reader, fd):
        writer = NowaitWriter(fd)
        line = LINE if make is not terminal else b"x" * 200
        written = fill(writer, line)
        assert written
        assert os.get_blocking(fd), "the open file is shared with others, who expect it to wait"
        if make is pipe:
            assert not written % len(line), "a line was written in part"
        while written:
            written -= len(os.read(reader, min(written, 65536)))
        assert writer.write(b"y") == 1
        assert os.read(reader, 10) == b"y"


@pytest.mark.usefixtures("kernel")
def test_a_regular_file_always_has_room(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with open(path, "ab", buffering=0) as file:
        writer = NowaitWriter(file.fileno())
        assert [writer.write(LINE) for _ in range(100)] == [len(LINE)] * 100
        # As with O_APPEND elsewhere, what others write in between stays.
        file.write(b"other")
        writer.write(b"end")
    assert path.read_bytes() == LINE * 100 + b"other" + b"end"


@pytest.mark.usefixtures("kernel")
def test_a_reader_that_has_gone_is_an_error() -> None:
    reader, fd = os.pipe()
    writer = NowaitWriter(fd)
    os.close(reader)
    try:
        with pytest.raises(BrokenPipeError):
            writer.write(LINE)
    finally:
        os.close(fd)


def test_a_descriptor_that_is_not_open_is_an_error() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        NowaitWriter(2**20)


def test_a_kernel_is_asked_for_the_flag_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def refuse(*_: Any) -> int:
        nonlocal asked
        asked += 1
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "pwritev", refuse)
    with pipe() as (reader, fd):
        writer = NowaitWriter(fd)
        for _ in range(3):
            assert writer.write(b"abc") == 3
        assert os.read(reader, 100) == b"abc" * 3
    assert asked == 1
