"""Run a function inside the network namespace of a process (of a container, for example), on a thread of its own.

    python3 examples/run_inside.py 4711

This does not use the broker, so it takes CAP_SYS_ADMIN and CAP_SYS_PTRACE.
"""

import socket
import sys

import nsbroker


def look_inside(pid: int) -> None:
    """Print the network interfaces inside, and open a socket inside."""
    with nsbroker.Namespace.from_pid(pid, "net") as network:
        names = [name for _, name in network.call(socket.if_nameindex)]
        print(f"{network} has the interfaces {', '.join(names)}; here are {', '.join(name for _, name in socket.if_nameindex())}")
        with network.call(socket.socket, socket.AF_INET, socket.SOCK_STREAM) as sock:
            # A socket stays in the network namespace where it was created, whichever process uses it.
            sock.bind(("127.0.0.1", 0))
            print(f"a socket bound to {sock.getsockname()[0]} in there, used out here")


def main(*arguments: str) -> int:
    """Look inside, and return the exit code."""
    try:
        (pid,) = map(int, arguments)
    except ValueError:
        print("usage: python3 examples/run_inside.py PID", file=sys.stderr)
        return 2
    try:
        look_inside(pid)
    except nsbroker.NsbrokerError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, nsbroker.errors.InvalidTarget) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
