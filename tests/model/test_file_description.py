"""The kinds of files, as real files have them."""

import os
import socket
from pathlib import Path

from nsbroker.model.file_description import FileKind


def kind(path: Path) -> FileKind:
    return FileKind.of_mode(os.lstat(path).st_mode)


def test_each_kind_of_file_has_a_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        # The path of a test's folder can be too long for an address.
        folder = os.open(tmp_path, os.O_RDONLY)
        sock.bind(f"/proc/self/fd/{folder}/socket")
        os.close(folder)
    for name in ("file", "link", "fifo", "socket"):
        assert kind(tmp_path / name) == name
    assert kind(tmp_path) == FileKind.DIRECTORY
    assert kind(Path("/dev/null")) == FileKind.DEVICE
    assert FileKind.of_mode(0o60600) == FileKind.BLOCK
