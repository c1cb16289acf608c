"""Containers by name: beside the engine's own answer, among many, and while another engine says nothing."""

import http.client
import os
import socket
import statistics
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from nsbroker.client.blocking import Broker
from tests.bench import broker
from tests.bench.rivals import rounds
from tests.engines.real import WORK, Crun, Docker, Engine

MANY = 100
_COUNT = 300
_ROUNDS = 3


class Compared(NamedTuple):
    """The median seconds of a call, and of what it is measured beside."""

    seconds: float
    beside: float


class _UnixConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/run/docker.sock")


def _inspect() -> None:
    # A connection for each, as the broker makes them.
    with closing(_UnixConnection("docker")) as connection:
        connection.request("GET", "/containers/web/json")
        assert connection.getresponse().read()


@contextmanager
def running(kind: type[Engine]) -> Iterator[Engine]:
    """The engine; raises FileNotFoundError where it is not installed."""
    if missing := kind.missing():
        raise FileNotFoundError(", ".join(missing))
    WORK.mkdir(exist_ok=True)
    engine = kind()
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


def _open(client: Broker, target: str) -> list[float]:
    return rounds(lambda: client.open(target, "net").close(), _COUNT)


def by_name() -> Compared:
    """`docker:web` beside docker's own inspect."""
    ours: list[float] = []
    theirs: list[float] = []
    with running(Docker) as docker, broker.daemon() as daemon, daemon.connect() as client:
        docker.make("web")
        for _ in range(_ROUNDS):
            theirs += rounds(_inspect, _COUNT)
            ours += _open(client, "docker:web")
    return Compared(statistics.median(ours), statistics.median(theirs))


def among_many() -> Compared:
    """`crun:c000` among a hundred containers beside the same alone."""
    alone: list[float] = []
    among: list[float] = []
    with running(Crun) as crun, broker.daemon() as daemon, daemon.connect() as client:
        crun.make("c000")
        alone += [second for _ in range(_ROUNDS) for second in _open(client, "crun:c000")]
        for number in range(1, MANY):
            crun.make(f"c{number:03}")
        among += [second for _ in range(_ROUNDS) for second in _open(client, "crun:c000")]
    return Compared(statistics.median(among), statistics.median(alone))


def beside_a_silent_engine() -> Compared:
    """`crun:web` with a docker that accepts and says nothing, beside the same without."""
    path = Path(f"/run/silent-{os.getpid()}")
    before: list[float] = []
    during: list[float] = []
    with running(Crun) as crun, broker.daemon() as daemon, daemon.connect() as client:
        crun.make("web")
        (daemon.config / "nsbroker.d/engines.toml").write_text(f'[engines]\ndocker = ["{path}"]\n')
        daemon.reload()
        before += [second for _ in range(_ROUNDS) for second in _open(client, "crun:web")]
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(path))
            silent.listen()
            during += [second for _ in range(_ROUNDS) for second in _open(client, "crun:web")]
    path.unlink()
    return Compared(statistics.median(during), statistics.median(before))
