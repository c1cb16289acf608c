"""Measure the time from the first connection to the reply, with the broker started on demand.  Runs in a booted systemd."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from nsbroker.client.blocking import connect
from tests.bench.footprint import bare_start

_ADDRESS = "unix:/run/nsbroker/io.nsbroker.Broker"
_ROUNDS = 7


def _first_reply() -> float:
    subprocess.run(["systemctl", "stop", "nsbroker.service"], check=True)
    start = time.perf_counter()
    with connect(_ADDRESS, timeout=20) as broker:
        broker.who_am_i()
    return time.perf_counter() - start


def main() -> None:
    """Print the median seconds as JSON, and those of an interpreter that only imports trio and msgspec."""
    nsbroker = str(Path(sys.executable).with_name("nsbroker"))
    subprocess.run([nsbroker, "install-units"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["systemctl", "enable", "--quiet", "--now", "nsbroker.socket"], check=True)
    times = [(_first_reply(), bare_start()) for _ in range(_ROUNDS)]
    print(json.dumps([statistics.median(column) for column in zip(*times, strict=True)]))


if __name__ == "__main__":
    main()
