"""The blocking conduit, at the limit of open files and between processes."""

import os
import resource
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nsbroker.conduit import Conduit
from nsbroker.errors import DescriptorsLost
from tests.conduit.conftest import null


def test_at_the_limit_of_open_files_the_loss_is_reported(pair: Any) -> None:
    sender, receiver = Conduit(pair[0]), Conduit(pair[1])
    sender.transfer_fd(null())
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = null()
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        with pytest.raises(DescriptorsLost, match="too many files"):
            receiver.receive_fd()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_between_processes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the parent")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    code = """
import socket, sys
from nsbroker import Conduit
with Conduit(socket.socket(fileno=int(sys.argv[1]))) as conduit, conduit.receive_file("r") as file:
    print(file.read())
"""
    with Conduit(ours) as conduit, theirs:
        conduit.transfer_fd(os.open(tmp_path / "file", os.O_RDONLY))
        done = subprocess.run(
            [sys.executable, "-c", code, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout == "from the parent\n"
