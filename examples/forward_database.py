"""Connect to a database in a container as if it listened on this host, from a process without any privilege.

    python3 examples/forward_database.py docker:database

`nsbroker forward` listens on a free local port, and connects each client to the port on the loopback inside the container.
This takes a rule with sockets = ["inet:stream"].
"""

import contextlib
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

POSTGRESQL = 5432
SSL_REQUEST = struct.pack("!II", 8, 80877103)


@contextlib.contextmanager
def forwarded(target: str, port: int) -> Iterator[tuple[str, int]]:
    """Forward a free local port to `port` inside `target`.  Yields the local address."""
    command = [sys.executable, "-m", "nsbroker", "forward", target, f"0:{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forward:  # noqa: S603 - no shell
        assert forward.stdout is not None  # noqa: S101 - for mypy
        try:
            # It prints "127.0.0.1:43121 leads to docker:database port 5432", or if it fails, an error on standard error.
            words = forward.stdout.readline().split()
            if not words:
                raise SystemExit(forward.wait())
            host, _, local = words[0].rpartition(":")
            yield host, int(local)
        finally:
            forward.terminate()


def greeting(address: tuple[str, int]) -> str:
    """Ask the server whether it is PostgreSQL with TLS, as every client of PostgreSQL does first."""
    with socket.create_connection(address, timeout=5) as database:
        database.sendall(SSL_REQUEST)
        reply = database.recv(1)
    return {b"S": "PostgreSQL, with TLS", b"N": "PostgreSQL, without TLS"}.get(reply, f"no PostgreSQL: it replied {reply!r}")


def main(*arguments: str) -> None:
    """Forward a port, ask the server, and print what it is."""
    if len(arguments) != 1:
        print("usage: python3 examples/forward_database.py TARGET", file=sys.stderr)
        raise SystemExit(2)
    target = arguments[0]
    with forwarded(target, POSTGRESQL) as address:
        try:
            print(f"{target} is reached at {address[0]} port {address[1]}: {greeting(address)}")
        except ConnectionError:
            raise SystemExit(f"nothing answers in {target}") from None
    print("no longer forwarded")


if __name__ == "__main__":
    main(*sys.argv[1:])
