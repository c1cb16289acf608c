"""Link statistics of each container's network, from a process without any privilege.

python3 examples/link_statistics.py

The engines' own sockets are root's; the broker tells which containers this user may open, and which process is in each.
What such a process sees under /proc/PID/net anybody may read.
"""

import os
import select

import nsbroker


def link_statistics(pid: int) -> dict[str, tuple[int, int]]:
    """Bytes received and sent, by interface, in the network of the process `pid`; empty when it has ended."""
    pidfd = os.pidfd_open(pid)
    try:
        with open(f"/proc/{pid}/net/dev") as lines:
            rows = [line.replace(":", " ").split() for line in list(lines)[2:]]
        # While the process lives its number is nobody else's: then what was read is of its network.
        ended = select.select([pidfd], [], [], 0)[0]
        return {} if ended else {name: (int(values[0]), int(values[8])) for name, *values in rows}
    finally:
        os.close(pidfd)


def main() -> None:
    """Ask, read, print."""
    with nsbroker.connect() as broker:
        containers, unavailable = broker.containers()
    for engine in unavailable:
        print(f"# {engine.engine}: {engine.reason}")
    print(f"{'CONTAINER':<30}{'LINK':<12}{'RECEIVED':>12}{'SENT':>12}")
    for container in containers:
        for name, (received, sent) in link_statistics(container.pid).items():
            print(f"{container.engine + ':' + (container.names or [container.id])[0]:<30}{name:<12}{received:>12}{sent:>12}")


if __name__ == "__main__":
    main()
