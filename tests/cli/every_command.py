"""Run many commands of nsbroker one after the other, each in a forked child, which is faster than starting Python for each.

usage: python every_command.py FILE FOLDER [FD...]

FILE contains a JSON list of command lines.  The output of command number N on each descriptor FD is written to FOLDER/N.FD,
and its exit code to FOLDER/N.
"""

import fcntl
import gc
import json
import os
import sys
from importlib import import_module

from nsbroker.cli.main import COMMANDS, main


def capture(path: str, fd: int) -> None:
    """Redirect `fd` to a file.  Other descriptors that are closed stay closed."""
    opened = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    high = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(opened)
    os.dup2(high, fd)
    os.close(high)


def preload() -> None:
    """Import what the commands import, and exempt it from garbage collection, which would copy its pages in each child."""
    for command in COMMANDS:
        import_module(f"nsbroker.cli.commands.{command.replace('-', '_')}")
    import_module("nsbroker.daemon.main")
    gc.collect()
    gc.freeze()


def run_all(file: str, folder: str, captured: list[str]) -> None:
    """Run all command lines of `file`, and write the results into `folder`."""
    with open(file) as lines:
        commands = json.load(lines)
    preload()
    for number, line in enumerate(commands):
        child = os.fork()
        if child == 0:
            for fd in captured:
                capture(f"{folder}/{number}.{fd}", int(fd))
            sys.exit(main(line))
        _, status = os.waitpid(child, 0)
        with open(f"{folder}/{number}", "w") as code:
            code.write(str(os.waitstatus_to_exitcode(status)))


run_all(sys.argv[1], sys.argv[2], sys.argv[3:])
