"""Run a command inside a target's namespaces, where the kernel lets you.

The broker opens them; entering is between you and the kernel: it wants CAP_SYS_ADMIN, or that your uid owns the user
namespace that owns them, as with every rootless container.  Then the user namespace is entered first.
"""

import argparse
import os

from nsbroker.cli import arguments
from nsbroker.cli.execute import CommandFailed, execute
from nsbroker.client.blocking import connect
from nsbroker.identity import NamespaceType
from nsbroker.linux.setns import setns
from nsbroker.namespace import Namespace

# The user namespace first, it gives the rights over the others; mnt last, it takes /proc and the paths away.
_ORDER = ("user", "cgroup", "ipc", "uts", "net", "pid", "time", "mnt")


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    arguments.add_target(parser)
    arguments.add_types(parser, "all that the target has and you are not in")
    arguments.add_command(parser)


def run(options: argparse.Namespace) -> int:
    """Open, enter, become the command."""
    target, types = arguments.target(options), arguments.types(options)
    with connect() as broker:
        spaces = broker.open_all(target, types)
    foreign = [spaces[kind] for kind in map(NamespaceType, _ORDER) if kind in spaces and not _is_ours(spaces[kind])]
    for space in foreign:
        _enter(space)
    if any(space.type in ("pid", "time") for space in foreign):
        # Only children of who enters these are inside.
        return _wait(_fork_and_execute(options.command))
    return execute(options.command, {})


def _is_ours(space: Namespace) -> bool:
    with Namespace.current(space.type) as ours:
        return ours == space


def _enter(space: Namespace) -> None:
    try:
        setns(space.fileno(), space.type.flag)
    except PermissionError as error:
        raise CommandFailed(
            f"the kernel does not let you enter {space}: it takes CAP_SYS_ADMIN, or owning the user namespace that owns it; "
            "`nsbroker open` gives you descriptors of it all the same"
        ) from error
    except OSError as error:
        raise CommandFailed(f"cannot enter {space}: {error.strerror}") from error


def _fork_and_execute(command: list[str]) -> int:
    child = os.fork()
    if child == 0:
        try:
            execute(command, {})
        except CommandFailed as error:
            os.write(2, f"nsbroker: {error}\n".encode())
        finally:
            os._exit(1)
    return child


def _wait(child: int) -> int:
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
