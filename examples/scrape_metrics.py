"""Fetch a page from the loopback of a container, from a process without any privilege.

    python3 examples/scrape_metrics.py docker:web 8080 /metrics

Prometheus exporters and status pages often listen only on 127.0.0.1 of their container.  This takes a rule with
sockets = ["inet:stream"].
"""

import http.client
import sys

import nsbroker


class InsideConnection(http.client.HTTPConnection):
    """An HTTP connection to the loopback of a target; `broker` is borrowed."""

    def __init__(self, broker: nsbroker.Broker, target: str, port: int) -> None:
        super().__init__("127.0.0.1", port, timeout=5)
        self._broker = broker
        self._target = target

    def connect(self) -> None:
        """Connect from inside the target.  http.client calls this when it has no connection."""
        self.sock = self._broker.create_connection(self._target, (self.host, self.port), self.timeout)


def fetch(target: str, port: int, path: str) -> str:
    """Return the page at `path`.  Raises OSError, HTTPException, and the errors of `nsbroker.errors`."""
    with nsbroker.connect() as broker:
        connection = InsideConnection(broker, target, port)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise http.client.HTTPException(f"{response.status} {response.reason}")
            return response.read().decode(errors="replace")
        finally:
            connection.close()


def main(target: str = "", port: str = "8080", path: str = "/metrics", *others: str) -> int:
    """Fetch the page, print it, and return the exit code."""
    if not target or others or not port.isdecimal():
        print("usage: python3 examples/scrape_metrics.py TARGET [PORT [PATH]]", file=sys.stderr)
        return 2
    try:
        print(fetch(target, int(port), path), end="")
    except (nsbroker.NsbrokerError, OSError, http.client.HTTPException) as error:
        print(f"cannot fetch {path}: {error}", file=sys.stderr)
        return 2 if isinstance(error, nsbroker.errors.InvalidTarget) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
