"""A helper that is root opens a listening socket and sends it over a conduit to a worker without privileges.

python3 examples/pass_socket.py
"""

import os
import socket
import sys

import nsbroker

NOBODY = 65534


def helper(conduit: nsbroker.Conduit) -> None:
    """Open a socket on a port below 1024, which takes privileges, and send it to the worker."""
    conduit.transfer_socket(socket.create_server(("127.0.0.1", 80)))


def worker(conduit: nsbroker.Conduit) -> None:
    """Give up all privileges, receive the socket, and serve one connection."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    with conduit.receive_socket() as listener:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(f"served by uid {os.getuid()} on port {listener.getsockname()[1]}\n".encode())


def main(*arguments: str) -> None:
    """Start the worker, send it the socket, and connect to it."""
    if arguments or os.geteuid() != 0:
        print("usage: sudo python3 examples/pass_socket.py (it has no arguments)", file=sys.stderr)
        raise SystemExit(2)
    ours, theirs = nsbroker.Conduit.pair()
    child = os.fork()
    if child == 0:
        ours.close()
        worker(theirs)
        os._exit(0)
    theirs.close()
    with ours:
        helper(ours)
    with socket.create_connection(("127.0.0.1", 80)) as client:
        print(client.recv(100).decode(), end="")
    os.waitpid(child, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
