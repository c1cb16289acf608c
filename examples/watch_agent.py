"""Keep a socket in the network of every container that the rules allow, as containers come and go.

python3 examples/watch_agent.py

Each new network comes with a handle, which keeps it alive until the socket is made.  This takes a rule with
`namespaces = ["net"]` and `sockets = ["inet:dgram"]`.
"""

import contextlib
import socket
import sys

import nsbroker
from nsbroker.client.events import Event


def follow(broker: nsbroker.Broker, sockets: dict[int, socket.socket], event: Event) -> None:
    """Open a socket when a network comes, and close it when the network is gone."""
    found = event.namespace
    with event.handle or contextlib.nullcontext():
        if found is None or not found.containers:
            return
        if event.event == "gone" and found.inode in sockets:
            sockets.pop(found.inode).close()
            print(f"- {found.containers[0]}", flush=True)
        elif event.handle is not None:
            sockets[found.inode] = broker.socket(found.containers[0], socket.AF_INET, socket.SOCK_DGRAM)
            print(f"+ {found.containers[0]}", flush=True)


def main(*arguments: str) -> int:
    """Follow the networks until the broker ends the watch, and return the exit code."""
    if arguments:
        print("usage: python3 examples/watch_agent.py (it has no arguments)", file=sys.stderr)
        return 2
    sockets: dict[int, socket.socket] = {}
    try:
        with nsbroker.connect() as broker, broker.watch(["net"], open=["net"]) as events:
            for event in events:
                try:
                    follow(broker, sockets, event)
                except (nsbroker.errors.NoSuchTarget, nsbroker.errors.PermissionDenied) as error:
                    print(error, file=sys.stderr)
    except nsbroker.NsbrokerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
