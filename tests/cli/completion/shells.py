"""What tests of the completion scripts share: a command `nsbroker` for shells, and a terminal in which a shell runs."""

import contextlib
import os
import pty
import re
import select
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from nsbroker.cli import main
from nsbroker.cli.completion.command_line import Command, commands
from tests.world import SLOWNESS

_CHECKOUT = Path(__file__).parent.parent.parent.parent


def all_commands() -> list[Command]:
    return commands(main.parser())


def environment(folder: Path, address: str) -> dict[str, str]:
    """Make a command `nsbroker` in `folder`, and return environment variables with which shells find it."""
    program = folder / "nsbroker"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={quote(str(_CHECKOUT))} exec {quote(sys.executable)} -m nsbroker "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    variables = {"PATH": f"{folder}:{os.environ['PATH']}", "NSBROKER_ADDRESS": address, "HOME": str(folder)}
    return {**variables, "TERM": "dumb", "LC_ALL": "C.UTF-8"}


def type_into(shell: Sequence[str], text: Sequence[str], expected: str, variables: dict[str, str]) -> str:
    """Run a shell in a terminal, type each text, and return what it printed, once that matches `expected`.  Fails otherwise."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(shell, stdin=theirs, stdout=theirs, stderr=theirs, env=variables, start_new_session=True) as process:
        os.close(theirs)
        try:
            for line in text:
                os.write(ours, line.encode())
            printed, end = "", time.monotonic() + 20 * SLOWNESS
            while not re.search(expected, printed):
                assert time.monotonic() < end, printed
                if select.select([ours], [], [], 0.5)[0]:
                    printed += os.read(ours, 65536).decode(errors="replace")
            return printed
        finally:
            process.kill()
            with contextlib.suppress(OSError):
                os.close(ours)
