"""Replace this process by another program."""

import errno
import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from nsbroker.errors import CommandFailed

_FIRST_FD = 3
# The exit codes of shells for what they cannot run: see EXIT STATUS in bash(1).
_NOT_FOUND = 127
_NOT_EXECUTABLE = 126


def execute(command: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Replace this process by `command`, with `environment` added to ours (execvpe(3)).  Raises CommandFailed; never returns."""
    sys.stdout.flush()
    # Python ignores these, and a program inherits what is ignored: behind `| head`, it would not end.
    ignored = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGPIPE, signal.SIGXFSZ)}
    try:
        os.execvpe(command[0], list(command), {**os.environ, **environment})  # noqa: S606 - no shell, on purpose
    except OSError as error:
        for number, effect in ignored.items():
            signal.signal(number, effect)
        raise cannot_run(command[0], error) from error


def cannot_run(name: str, error: OSError) -> CommandFailed:
    """Return the error to raise when the program `name` cannot be run, with the exit code that shells have for that."""
    number = error.errno
    if "/" not in name and shutil.which(name, os.F_OK) is None:
        # A folder of $PATH that is closed to us makes this a "permission denied".
        number = errno.ENOENT
    reason = os.strerror(number) if number else error
    not_found = number in (errno.ENOENT, errno.ENOTDIR)
    return CommandFailed(f"cannot run {name!r}: {reason}", _NOT_FOUND if not_found else _NOT_EXECUTABLE)


def execute_with_fds(command: Sequence[str], fds: Mapping[str, int]) -> NoReturn:
    """Replace this process by `command`, which inherits `fds` (taken) as systemd passes them (sd_listen_fds(3)).

    They are the descriptors 3, 4, ... in the order of `fds`, whose keys are their names.  Raises CommandFailed; never returns.
    """
    # First duplicate them to higher numbers, because some of them may have the numbers that others need.
    above = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD + len(fds)) for fd in fds.values()]
    for number, fd in enumerate(above, _FIRST_FD):
        os.dup2(fd, number, inheritable=True)
    execute(command, {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(fds)})
