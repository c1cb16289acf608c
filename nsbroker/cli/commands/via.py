"""`nsbroker via`."""

import argparse
import errno
import os
import shutil
import stat

from nsbroker.cli import arguments, child, connection, terminal
from nsbroker.cli.execute import cannot_run
from nsbroker.errors import NsbrokerError
from nsbroker.via import Popen

HELP = """\
Run a command with its sockets made inside a target's network.

Any program works, unmodified and without privilege: its socket(2) calls are answered with sockets that the broker makes inside.
Host names mean what they mean in the target, if you may open its resolv.conf and hosts (`files` in the policy) and may create user
namespaces; otherwise one line says so.  This is a convenience, not a sandbox: /proc/net and /sys/class/net stay the host's.

It ends when the last process of the command has ended, with the exit code of the command (127: not found, 126: not executable,
128 + N: ended by signal N)."""
EXAMPLE = "nsbroker via container:web -- curl http://127.0.0.1:8080/"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    arguments.add_target(parser)
    connection.add_timeout(parser)
    arguments.set_usage_of_command(parser, "[--timeout SECONDS]")


def run(options: argparse.Namespace) -> int:
    """Run the command and supervise its processes until the last one has ended."""
    target, command = arguments.target(options), options.command
    path = command[0] if "/" in command[0] else shutil.which(command[0], os.F_OK)
    if path is None or not os.path.exists(path):
        raise cannot_run(command[0], FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
    _report_lost_privilege(command[0], path)
    connection.describe(options)
    try:
        # All descriptors of ours are close-on-exec.  The command inherits the others, as it would from a shell.
        with (
            child.signals_blocked() as prepare,
            Popen(command, target, broker_timeout=options.timeout, close_fds=False, preexec_fn=prepare) as process,
        ):
            code = child.wait(process)
    except OSError as error:
        if isinstance(error, NsbrokerError):
            raise
        raise cannot_run(command[0], error) from error
    # Processes that the command has left behind still need their sockets.  A signal ends this now.
    process.join()
    return code


def _report_lost_privilege(name: str, path: str) -> None:
    """Say that a program runs without the privilege that its file would give it: the kernel requires that of filtered programs."""
    if os.geteuid() == 0:
        return
    mode = os.stat(path).st_mode
    what = "its setuid bit" if mode & stat.S_ISUID else "its setgid bit" if mode & stat.S_ISGID else _file_capabilities(path)
    if what:
        terminal.print_hint(f"{name} runs without the privilege of {what}: a program under `nsbroker via` cannot gain any")


def _file_capabilities(path: str) -> str:
    try:
        os.getxattr(path, "security.capability")
    except OSError:
        return ""
    return "its file capabilities"
