"""What is read of processes in /proc.  `tests/daemon/discovery/test_earlier_scan.py` tests most of it, as a part of scans."""

import os
from pathlib import Path

import pytest

from nsbroker.linux import process_table


def test_control_groups_are_the_lines_of_proc() -> None:
    assert process_table.control_groups(os.getpid()) == Path("/proc/self/cgroup").read_bytes()
    assert process_table.control_groups(0) == b""


@pytest.mark.parametrize(
    ("read", "whole"),
    [
        (b"9:cpu:/docker/web\n0::/\n", b"9:cpu:/docker/web\n0::/\n"),
        (b"9:cpu:/docker/web\n8:pid", b"9:cpu:/docker/web\n"),
        (b"9:cpu:/docker/web\n1:name=systemd:/system.slice/a.serv", b"9:cpu:/docker/web\n"),
        (b"0::/a/path/that/is/too/long", b""),
    ],
)
def test_a_line_of_a_control_group_that_is_cut_off_is_left_out(monkeypatch: pytest.MonkeyPatch, read: bytes, whole: bytes) -> None:
    """Only the beginning of the file is read.  Few hosts have control groups of version 1, so what is read is made up."""
    monkeypatch.setattr(process_table, "_read", lambda _: read)
    assert process_table.control_groups(1) == whole
