"""Measure how long it takes to connect to a port on the loopback of each container, from a process without any privilege.

    python3 examples/probe_latency.py 8080
    python3 examples/probe_latency.py 8080 --json

This takes a rule with namespaces = ["net"], which shows the containers, and sockets = ["inet:stream"].  The exit code is 1 if a
container did not let us connect.
"""

import json
import socket
import statistics
import sys
import time
from typing import NamedTuple

import nsbroker

TRIES = 5
TIMEOUT = 1.0


class Result(NamedTuple):
    """The seconds that each try took.  `error` is why there are not TRIES of them, or None."""

    container: str
    port: int
    seconds: list[float]
    error: str | None


def connect_once(broker: nsbroker.Broker, target: str, port: int) -> float:
    """Return the seconds that it takes to connect.  The time to ask the broker for the socket does not count."""
    with broker.socket(target, socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT)
        begun = time.perf_counter()
        sock.connect(("127.0.0.1", port))
        return time.perf_counter() - begun


def probe_all(port: int) -> list[Result]:
    """Probe one container after the other, so that no probe disturbs another.  Raises the errors of `nsbroker.errors`."""
    results = []
    with nsbroker.connect() as broker:
        containers, unavailable = broker.containers()
        for engine in unavailable:
            print(f"{engine.engine}: {engine.reason}", file=sys.stderr)
        for container in containers:
            name = f"{container.engine}:{(container.names or [container.id])[0]}"
            seconds: list[float] = []
            reason = None
            try:
                while len(seconds) < TRIES:
                    seconds.append(connect_once(broker, f"{container.engine}:{container.id}", port))
            except (nsbroker.NsbrokerError, OSError) as error:
                reason = getattr(error, "strerror", None) or str(error)
            results.append(Result(name, port, seconds, reason))
    return results


def print_table(results: list[Result]) -> None:
    """Print the median and the highest of the times in milliseconds, or what went wrong."""
    print(f"{'CONTAINER':<30}{'MEDIAN':>10}{'HIGHEST':>10}")
    for result in results:
        if result.error is not None:
            print(f"{result.container:<30}  {result.error}")
        else:
            median, highest = statistics.median(result.seconds), max(result.seconds)
            print(f"{result.container:<30}{1000 * median:>7.3f} ms{1000 * highest:>7.3f} ms")


def main(port: str = "", *others: str) -> int:
    """Probe all containers, print the results, and return the exit code."""
    if not port.isdecimal() or others not in ((), ("--json",)):
        print("usage: python3 examples/probe_latency.py PORT [--json]", file=sys.stderr)
        return 2
    try:
        results = probe_all(int(port))
    except nsbroker.NsbrokerError as error:
        print(error, file=sys.stderr)
        return 1
    if others:
        print(json.dumps([result._asdict() for result in results], indent=2))
    else:
        print_table(results)
    return 1 if any(result.error is not None for result in results) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
