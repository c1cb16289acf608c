"""`nsbroker run`."""

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
Run a command inside a target's namespaces, where the kernel lets you.

The broker opens them; entering is between you and the kernel: it wants CAP_SYS_ADMIN, or that your uid owns the user
namespace that owns them, as with every rootless container.  Then the user namespace is entered first."""

# The user namespace first, it gives the rights over the others; mnt last, it takes /proc and the paths away.
_ORDER = [NamespaceType(name) for name in ("user", "cgroup", "ipc", "uts", "net", "pid", "time", "mnt")]


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    arguments.add_target(parser)
    arguments.add_types(parser, "all that the target has and you are not in")
    connection.add_timeout(parser)
    arguments.set_usage_of_command(parser)


def run(options: argparse.Namespace) -> int:
    """Open, enter, become the command."""
    target, types = arguments.target(options), arguments.types(options)
    with connection.connect(options) as broker, contextlib.ExitStack() as handles:
        spaces = broker.open_all(target, types)
        for space in spaces.values():
            handles.enter_context(space)
        foreign = [spaces[kind] for kind in _ORDER if kind in spaces and not is_ours(spaces[kind])]
        for space in foreign:
            _enter(space)
        kinds = {space.type for space in foreign}
    if kinds & {NamespaceType.PID, NamespaceType.TIME}:
        # Only children of who enters these are inside.
        return _wait(_fork_and_execute(options.command))
    return execute(options.command, {})


def _enter(space: Namespace) -> None:
    try:
        move(space.fileno(), space.type)
    except EnterFailed as error:
        raise EnterFailed(f"{error}; `nsbroker open` gives you descriptors of it all the same") from error


def _fork_and_execute(command: list[str]) -> int:
    child = os.fork()
    if child == 0:
        try:
            execute(command, {})
        except CommandFailed as error:
            terminal.say(str(error))
        finally:
            os._exit(1)
    return child


def _wait(child: int) -> int:
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
