"""Print the link statistics of each container's network, from a process without any privilege.

python3 examples/link_statistics.py

Only root may use the sockets of the container engines.  The broker lists the containers that this user may open, and the first
process of each.  Every user may read /proc/PID/net of that process.
"""

import os
import select
import sys

import nsbroker


def link_statistics(pid: int) -> dict[str, tuple[int, int]]:
    """Return the received and sent bytes of each interface in the network of the process `pid`; nothing if it has ended."""
    pidfd = os.pidfd_open(pid)
    try:
        with open(f"/proc/{pid}/net/dev") as lines:
            rows = [line.replace(":", " ").split() for line in list(lines)[2:]]
        # If the process has not ended by now, no other process can have had its number, so the lines are of its network.
        ended = select.select([pidfd], [], [], 0)[0]
        return {} if ended else {name: (int(values[0]), int(values[8])) for name, *values in rows}
    finally:
        os.close(pidfd)


def main(*arguments: str) -> int:
    """Ask the broker for the containers, print the statistics of each, and return the exit code."""
    if arguments:
        print("usage: python3 examples/link_statistics.py (it has no arguments)", file=sys.stderr)
        return 2
    try:
        with nsbroker.connect() as broker:
            containers, unavailable = broker.containers()
    except nsbroker.NsbrokerError as error:
        print(error, file=sys.stderr)
        return 1
    for engine in unavailable:
        print(f"# {engine.engine}: {engine.reason}")
    print(f"{'CONTAINER':<30}{'LINK':<12}{'RECEIVED':>12}{'SENT':>12}")
    for container in containers:
        for name, (received, sent) in link_statistics(container.pid).items():
            print(f"{container.engine + ':' + (container.names or [container.id])[0]:<30}{name:<12}{received:>12}{sent:>12}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
