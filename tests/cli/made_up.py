"""Made-up descriptions of namespaces, and a pseudo-terminal to run commands on."""

import fcntl
import os
import struct
import subprocess
import sys
import termios
from typing import Any

from nsbroker.model.description import LeadingProcess, NamespaceDescription
from nsbroker.model.identity import NamespaceType

NASTY = "sh -c \x1b]0;owned\x07\x1b[2J\nsecond \r\t\\xff\\xfe \u202egnp.exe \x9b31m 容器"
"""A command line that tries to move the cursor.  Bytes that are not text are written as the broker writes them."""


def ns(inode: int, ns_type: NamespaceType = NamespaceType.NET, command: str | None = None, **fields: Any) -> NamespaceDescription:
    """Make a namespace with one process that runs `command`, or with no process."""
    process = None if command is None else LeadingProcess(pid=inode + 10000, uid=fields.pop("uid", 0), command=command)
    processes = fields.pop("processes", 0 if process is None else 1)
    return NamespaceDescription(type=ns_type, inode=inode, device=4, processes=processes, process=process, **fields)


def run_on_terminal(*arguments: str, address: str, columns: int, **environment: str) -> str:
    """Run `nsbroker` on a terminal of that width, and return what it writes to it."""
    ours, theirs = os.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        bare = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "TERM")}
        with subprocess.Popen(
            [sys.executable, "-m", "nsbroker", *arguments],
            stdout=theirs,
            stderr=subprocess.DEVNULL,
            env={**bare, "NSBROKER_ADDRESS": address, "TERM": "xterm", **environment},
        ) as process:
            os.close(theirs)
            theirs = -1
            text = b""
            while piece := _read(ours):
                text += piece
        assert process.returncode == 0, text
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)
    return text.decode().replace("\r\n", "\n")


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:
        # EIO: no process has the other side open any more.
        return b""
