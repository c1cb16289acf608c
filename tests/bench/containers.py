"""Opening containers by name: compared with the engine's own API, among many, and while another engine is silent."""

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
    """The median seconds of a call, and of what it is compared with."""

    seconds: float
    beside: float


class _UnixConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/run/docker.sock")


def _inspect() -> None:
    # A new connection for each query, as in the broker.
    with closing(_UnixConnection("docker")) as connection:
        connection.request("GET", "/containers/web/json")
        assert connection.getresponse().read()


@contextmanager
def running(engine_type: type[Engine]) -> Iterator[Engine]:
    """Run the engine.  Raises FileNotFoundError if it is not installed."""
    if missing := engine_type.missing():
        raise FileNotFoundError(", ".join(missing))
    WORK.mkdir(exist_ok=True)
    engine = engine_type()
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


def _open(client: Broker, target: str) -> list[float]:
    return rounds(lambda: client.open(target, "net").close(), _COUNT)


def by_name() -> Compared:
    """Compare `docker:web` with docker's own inspect."""
    ours: list[float] = []
    theirs: list[float] = []
    with running(Docker) as docker, broker.daemon() as daemon, daemon.connect() as client:
        docker.make("web")
        for _ in range(_ROUNDS):
            theirs += rounds(_inspect, _COUNT)
            ours += _open(client, "docker:web")
    return Compared(statistics.median(ours), statistics.median(theirs))


def among_many() -> Compared:
    """Compare `crun:c000` among a hundred containers with the same container alone."""
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
    """Compare `crun:web` while a docker accepts connections and never replies with the same before it."""
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
