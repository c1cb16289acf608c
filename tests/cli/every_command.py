"""Runs commands of nsbroker one after the other, each in a child of this interpreter, which saves starting one for each.

usage: python every_command.py FILE FOLDER [FD...], where FILE has a JSON list of command lines.  What the number N says on
the descriptors FD goes into FOLDER/N.FD, and its exit code into FOLDER/N.
"""

import fcntl
import json
import os
import sys

from nsbroker.cli.main import main


def capture(path: str, fd: int) -> None:
    """Have what is written to `fd` go into a file.  Other numbers that are closed stay closed."""
    opened = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    high = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(opened)
    os.dup2(high, fd)
    os.close(high)


def run_all(file: str, folder: str, captured: list[str]) -> None:
    """Run them."""
    with open(file) as lines:
        commands = json.load(lines)
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
