"""`nsbroker exec`."""

import argparse
import contextlib
import os

from nsbroker.cli import arguments, connection, terminal
from nsbroker.cli.execute import execute
from nsbroker.cli.output import is_ours
from nsbroker.errors import CommandFailed, EnterFailed
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
        for ns in foreign:
            _enter(ns)
        entered = {ns.type for ns in foreign}
    if entered & {NamespaceType.PID, NamespaceType.TIME}:
        # setns(2) moves only later children into these, not the calling process.
        return _wait(_fork_and_execute(options.command))
    return execute(options.command, {})


def _enter(ns: Namespace) -> None:
    try:
        move(ns.fileno(), ns.type)
    except EnterFailed as error:
        raise EnterFailed(f"{error}; `nsbroker open` can still give you a descriptor of it") from error


def _fork_and_execute(command: list[str]) -> int:
    child = os.fork()
    if child == 0:
        try:
            execute(command, {})
        except CommandFailed as error:
            terminal.print_message(str(error))
            os._exit(error.exit_code)
        finally:
            os._exit(1)
    return child


def _wait(child: int) -> int:
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
