"""What is written is whole, whatever goes wrong."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nsbroker.capture import pcapng
from nsbroker.capture.output import Output
from nsbroker.errors import CommandFailed
from tests.capture import reader

pytestmark = pytest.mark.once

BLOCK = pcapng.interface_description(1, "lo", "name:blue", "")


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes: writing fails then as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("flags", [0, os.O_APPEND])
def test_a_file_that_cannot_grow_ends_with_a_whole_block(tmp_path: Path, flags: int) -> None:
    start = pcapng.section_header("a program")
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT | flags, 0o600)
    try:
        output = Output(fd, "a file")
        output.write(start)
        with (
            files_end_at(len(start) + 7 * len(BLOCK) + 5),
            pytest.raises(CommandFailed, match="cannot write to a file: File too large"),
        ):
            output.write(BLOCK * 10)
    finally:
        os.close(fd)
    assert len(reader.read((tmp_path / "file").read_bytes()).interfaces) == 7


def test_a_device_that_is_full_cannot_be_cut() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(CommandFailed, match="No space left"):
            Output(fd, "full").write(BLOCK)
    finally:
        os.close(fd)


def test_a_reader_that_has_left_is_told_apart() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        with pytest.raises(BrokenPipeError):
            Output(write, "a pipe").write(BLOCK)
    finally:
        os.close(write)
