"""Run a function inside the network of a process (of a container, say), and stay outside with everything else.

    python3 examples/run_inside.py 4711

Takes CAP_SYS_ADMIN and CAP_SYS_PTRACE: it is the local half of nsbroker, without the broker.
"""

import socket
import sys

import nsbroker


def main() -> None:
    """Name the network interfaces in there, and open a socket that stays in there."""
    with nsbroker.Namespace.from_pid(int(sys.argv[1]), "net") as network:
        names = [name for _, name in network.call(socket.if_nameindex)]
        print(f"{network} has the interfaces {', '.join(names)}; here are {', '.join(name for _, name in socket.if_nameindex())}")
        with network.call(socket.socket, socket.AF_INET, socket.SOCK_STREAM) as sock:
            # Made inside, it lives inside, whoever uses it.
            sock.bind(("127.0.0.1", 0))
            print(f"a socket bound to {sock.getsockname()[0]} in there, used out here")


if __name__ == "__main__":
    main()
