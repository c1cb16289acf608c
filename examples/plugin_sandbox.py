"""Give a plugin one right only: to open the network namespace of one container.

    python3 examples/plugin_sandbox.py docker:web

This program connects to the broker, gives up all other rights of the connection, and starts a plugin with nothing but that
connection: a process that can gain no privileges, as another user if this program is root.  The broker takes the plugin's calls
for those of this program, so its user needs a rule with namespaces = ["net"].
"""

import os
import subprocess
import sys
from collections.abc import Callable

import nsbroker

NOBODY = 65534


def start_plugin(target: str) -> int:
    """Run the plugin with a restricted connection, and return its exit code.  Raises the errors of `nsbroker.errors`."""
    with nsbroker.connect() as broker:
        broker.restrict([target], namespaces=["net"])
        fd = broker.detach()
    try:
        user = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
        command = ["setpriv", "--no-new-privs", *user, sys.executable, __file__, "--plugin", str(fd), target]
        return subprocess.run(command, env={}, pass_fds=[fd], check=False).returncode  # noqa: S603 - no shell
    finally:
        os.close(fd)


def plugin(fd: int, target: str) -> None:
    """Open what is allowed, and try to get more."""
    with nsbroker.connect(fd=fd) as broker:
        with broker.open(target, "net") as network:
            print(f"opened {network.id} of {target}")
        # This cannot give anything back.
        broker.restrict(["*"], namespaces=["*"], sockets=["*"])
        attempts: dict[str, Callable[[], object]] = {
            f"the net namespace of process {os.getppid()}": lambda: broker.open(f"pid:{os.getppid()}", "net"),
            f"the mnt namespace of {target}": lambda: broker.open(target, "mnt"),
            f"a socket in {target}": lambda: broker.socket(target),
            "a new namespace": lambda: broker.create(["net"]),
        }
        for what, attempt in attempts.items():
            try:
                attempt()
            except nsbroker.errors.PermissionDenied:
                print(f"refused: {what}")
            else:
                raise SystemExit(f"got {what}")


def main(*arguments: str) -> int:
    """Start the plugin, or be it, and return the exit code."""
    try:
        match arguments:
            case [target]:
                return start_plugin(str(nsbroker.Target.parse(target)))
            case ["--plugin", fd, target]:
                plugin(int(fd), target)
            case _:
                print("usage: python3 examples/plugin_sandbox.py TARGET", file=sys.stderr)
                return 2
    except nsbroker.NsbrokerError as error:
        print(f"cannot open the namespace: {error}", file=sys.stderr)
        return 2 if isinstance(error, nsbroker.errors.InvalidTarget) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
