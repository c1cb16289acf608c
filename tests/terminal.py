"""A command on a terminal of its own, and a program that reports the signals that it gets."""

import contextlib
import os
import pty
import select
import subprocess
from collections.abc import Mapping, Sequence
from typing import Self

from tests.world import PATIENCE

REPORTER = """
import os, signal, sys, time
def note(number, frame):
    # The signal can arrive while `print` is still at work, which cannot be called again then.
    os.write(1, signal.Signals(number).name.encode() + b"\\n")
    sys.exit(5)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, note)
print("ready", flush=True)
time.sleep(60)
"""
"""A program in Python: prints "ready", then the name of the signal that it gets, and exits with 5."""


class Terminal:
    """A terminal, and the command that leads the session on it.  A context manager, which ends the command."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        # setsid --ctty makes the terminal the controlling one.
        self._process = subprocess.Popen(
            ["setsid", "--wait", "--ctty", *command], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        )
        os.close(theirs)
        self.shown = b""
        self._awaited = 0

    def type(self, keys: bytes) -> None:
        """Type on the keyboard."""
        os.write(self._ours, keys)

    def wait_for(self, text: bytes) -> None:
        """Wait until the terminal shows `text`, after what was waited for before."""
        while (place := self.shown.find(text, self._awaited)) < 0:
            ready, _, _ = select.select([self._ours], [], [], PATIENCE)
            assert ready, self.shown
            self.shown += os.read(self._ours, 100)
        self._awaited = place + len(text)

    def wait(self) -> int:
        """Wait until the command ends, read what the terminal shows by then, and return the exit code."""
        code = self._process.wait(PATIENCE)
        # When nobody has the terminal open any more, there is an OSError at the end.
        with contextlib.suppress(OSError):
            while select.select([self._ours], [], [], PATIENCE)[0]:
                self.shown += os.read(self._ours, 100)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)
