"""`nsbroker exec`."""

import argparse
import contextlib
import subprocess

from nsbroker.cli import arguments, child, connection
from nsbroker.cli.execute import cannot_run, execute
from nsbroker.cli.output import is_ours
from nsbroker.errors import EnterFailed
from nsbroker.inside.visit import move
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace

HELP = """\
Run a command inside a target's namespaces.

The broker opens the namespaces, and your process enters them itself.  For this the kernel requires CAP_SYS_ADMIN.  For a
rootless container of your own you need no privilege: its user namespace is entered first and gives you the rights.  If you
use --type, name `user` too."""
EXAMPLE = "nsbroker exec pid:4711 --type net -- ip addr"

# Enter user first, because it gives the rights to enter the others, and mnt last, because all paths change then, also /proc.
_ENTER_ORDER = [NamespaceType(name) for name in ("user", "cgroup", "ipc", "uts", "net", "pid", "time", "mnt")]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    arguments.add_target(parser)
    arguments.add_types(parser, "every type; a namespace that you are already in is not entered again")
    connection.add_timeout(parser)
    arguments.set_usage_of_command(parser)


def run(options: argparse.Namespace) -> int:
    """Open the namespaces, enter those that this process is not in, and run the command."""
    target, types = arguments.target(options), arguments.types(options)
    with connection.connect(options) as broker, contextlib.ExitStack() as handles:
        namespaces = broker.open_all(target, types)
        for ns in namespaces.values():
            handles.enter_context(ns)
        foreign = [namespaces[ns_type] for ns_type in _ENTER_ORDER if ns_type in namespaces and not is_ours(namespaces[ns_type])]
        # From here on, nothing more may be imported: in another mount namespace, it would be somebody else's program.
        for ns in foreign:
            _enter(ns)
        entered = {ns.type for ns in foreign}
    if entered & {NamespaceType.PID, NamespaceType.TIME}:
        # setns(2) moves only later children into these, not the calling process.
        return _run_child(options.command)
    return execute(options.command, {})


def _enter(ns: Namespace) -> None:
    try:
        move(ns.fileno(), ns.type)
    except EnterFailed as error:
        raise EnterFailed(f"{error}; `nsbroker open` can still give you a descriptor of it") from error


def _run_child(command: list[str]) -> int:
    """Run the command as a child of this process, and return its exit code.  Raises CommandFailed when it cannot be run."""
    try:
        with (
            child.signals_blocked() as prepare,
            # All descriptors of ours are close-on-exec.  The command inherits the others, as it would from a shell.
            subprocess.Popen(command, close_fds=False, preexec_fn=prepare) as process,  # noqa: S603 - the user's own
        ):
            return child.wait(process)
    except OSError as error:
        raise cannot_run(command[0], error) from error
