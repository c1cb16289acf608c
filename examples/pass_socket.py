"""A root helper opens a listening socket, a worker without rights serves it: the socket goes over a conduit.

python3 examples/pass_socket.py
"""

import os
import socket

import nsbroker

NOBODY = 65534


def helper(conduit: nsbroker.Conduit) -> None:
    """Open the socket where only root may (any port below 1024), hand it over, and be done."""
    conduit.transfer_socket(socket.create_server(("127.0.0.1", 80)))


def worker(conduit: nsbroker.Conduit) -> None:
    """Give up all rights, receive the socket, answer one caller."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    with conduit.receive_socket() as listener:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(f"served by uid {os.getuid()} on port {listener.getsockname()[1]}\n".encode())


def main() -> None:
    """Start the worker, hand it the socket, call it."""
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
    main()
