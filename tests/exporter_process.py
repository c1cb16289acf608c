"""`nsbroker exporter` in a process of its own, and what it serves."""

import http.client
import signal
import socket
import subprocess
from typing import NamedTuple, Self

from prometheus_client.parser import text_string_to_metric_families

from nsbroker.cli.exporter.open_network import FILES, SOCKET
from tests.world import PATIENCE, Daemon, eventually, start_command

PERMISSIONS: dict[str, object] = {"namespaces": ["net"], "files": list(FILES), "sockets": [SOCKET]}
"""What a rule must allow so that all metrics are there."""


class Sample(NamedTuple):
    """One value, with its labels."""

    labels: dict[str, str]
    value: float


class Scrape:
    """The metrics of one scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples: dict[str, list[Sample]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._samples.setdefault(sample.name, []).append(Sample(sample.labels, sample.value))

    def samples(self, name: str, **labels: str) -> list[Sample]:
        """Return the samples of a metric that have these labels."""
        return [one for one in self._samples.get(f"nsbroker_{name}", ()) if labels.items() <= one.labels.items()]

    def value(self, name: str, **labels: str) -> float | None:
        """Return the value of the only sample of a metric that has these labels; None if there is none."""
        found = self.samples(name, **labels)
        assert len(found) <= 1, found
        return found[0].value if found else None

    def containers(self) -> set[str]:
        """Return the targets whose numbers are there."""
        return {f"{one.labels['engine']}:{one.labels['container']}" for one in self.samples("target_up") if one.value == 1}


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Exporter:
    """The running command.  A context manager; at its end it was interrupted, and has ended with exit code 0."""

    def __init__(self, daemon: Daemon, uid: int, listen: str = "0") -> None:
        self._command = ("exporter", "--listen", listen)
        self._uid, self._address = uid, daemon.address
        self.place = ""
        self.errors = ""

    def __enter__(self) -> Self:
        self._process = start_command(*self._command, uid=self._uid, address=self._address)
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        if not line:
            _, errors = self._process.communicate()
            raise AssertionError(errors.decode())
        self.place = line.removeprefix("metrics are served at ").rstrip("\n")
        return self

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def host(self) -> str:
        """The address and the port at which it listens."""
        return self.place.removeprefix("http://").partition("/")[0]

    def fetch(self) -> str:
        """Fetch the metrics as text."""
        path = self.place.removeprefix("unix:")
        connection = http.client.HTTPConnection(self.host, timeout=PATIENCE) if path == self.place else UnixConnection(path)
        try:
            connection.request("GET", "/metrics")
            response = connection.getresponse()
            assert response.status == 200
            return response.read().decode()
        finally:
            connection.close()

    def scrape(self) -> Scrape:
        """Fetch the metrics, and parse them."""
        return Scrape(self.fetch())

    def shows(self, *targets: str) -> Scrape:
        """Wait until it has the numbers of these targets and of no others.  Return the scrape that has them."""
        latest = self.scrape()

        def is_so() -> bool:
            nonlocal latest
            latest = self.scrape()
            return latest.containers() == set(targets)

        eventually(is_so, f"it has the numbers of {targets}")
        return latest

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            output, errors = self._process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        self.errors = errors.decode()
        assert (self._process.returncode, output) == (0, b""), self.errors
