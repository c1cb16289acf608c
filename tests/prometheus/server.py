"""A real Prometheus that scrapes one exporter every second."""

import http.client
import json
import os
import subprocess
import urllib.parse
from pathlib import Path
from typing import Any, Self

from tests.exporter_process import Sample
from tests.world import PATIENCE, eventually

_PORT = 9090
_CONFIGURATION = """\
scrape_configs:
  - job_name: nsbroker
    scrape_interval: 1s
    scrape_timeout: 1s
    static_configs:
      - targets: ["{}"]
"""


class Prometheus:
    """The server, from the folder $PROMETHEUS.  A context manager."""

    def __init__(self, folder: Path, target: str) -> None:
        """`folder` gets its configuration and its data; `target` is HOST:PORT."""
        self._program = Path(os.environ["PROMETHEUS"]) / "usr/bin/prometheus"
        self._folder = folder
        (folder / "prometheus.yml").write_text(_CONFIGURATION.format(target))

    def __enter__(self) -> Self:
        with open(self._folder / "log", "wb") as log:
            self._process = subprocess.Popen(
                [
                    self._program,
                    f"--config.file={self._folder}/prometheus.yml",
                    f"--storage.tsdb.path={self._folder}/data",
                    f"--web.listen-address=127.0.0.1:{_PORT}",
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        eventually(self._is_ready, f"Prometheus is ready, see {self._folder}/log")
        return self

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            return self._get("/-/ready")[0] == http.client.OK
        except ConnectionRefusedError:
            return False

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", _PORT, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def query(self, expression: str) -> list[Sample]:
        """Return the values of an expression of PromQL, as they are now."""
        status, body = self._get(f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        answer: dict[str, Any] = json.loads(body)
        assert (status, answer["status"]) == (http.client.OK, "success"), answer
        return [Sample(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)
