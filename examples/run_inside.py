"""Run a function inside the network namespace of a process (of a container, for example), on a thread of its own.

    python3 examples/run_inside.py 4711

This does not use the broker, so it takes CAP_SYS_ADMIN and CAP_SYS_PTRACE.
"""

import socket
import sys

import nsbroker


def main() -> None:
    """Print the network interfaces inside, and open a socket inside."""
    with nsbroker.Namespace.from_pid(int(sys.argv[1]), "net") as network:
        names = [name for _, name in network.call(socket.if_nameindex)]
        print(f"{network} has the interfaces {', '.join(names)}; here are {', '.join(name for _, name in socket.if_nameindex())}")
        with network.call(socket.socket, socket.AF_INET, socket.SOCK_STREAM) as sock:
            # A socket stays in the network namespace where it was created, whichever process uses it.
            sock.bind(("127.0.0.1", 0))
            print(f"a socket bound to {sock.getsockname()[0]} in there, used out here")


if __name__ == "__main__":
    main()
