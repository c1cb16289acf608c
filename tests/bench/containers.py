"""Opening containers by name: compared with the engine's own API, among many, and while another engine is silent."""

import http.client
import socket
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from nsbroker.client.blocking import Broker, connect
from tests.bench import versions
from tests.bench.pace import rounds, turns
from tests.bench.table import Goal, LeftOut, Measure, Row, at_most, micro
from tests.bench.versions import Version
from tests.engines.real import WORK, Crun, Docker, Engine

_MANY = 60
_COUNT = 50

Times = dict[str, list[float]]


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
    """Run an engine.  Raises LeftOut if it is not installed."""
    if missing := engine_type.missing():
        raise LeftOut(f"{', '.join(missing)} is missing")
    WORK.mkdir(exist_ok=True)
    engine = engine_type()
    try:
        engine.start()
        yield engine
    finally:
        engine.close()


@contextmanager
def _clients(found: Mapping[str, Version], engines: str = "") -> Iterator[dict[str, Broker]]:
    """Run a broker of each version, with lines of configuration, and connect a client to each."""
    with versions.serve_all(found, more=engines) as brokers, ExitStack() as stack:
        yield {name: stack.enter_context(connect(broker.address, timeout=20)) for name, broker in brokers.items()}


def _open(client: Broker, target: str) -> list[float]:
    return rounds(lambda: client.open(target, "net").close(), _COUNT)


def _measure(clients: Mapping[str, Broker], target: str, times: Times) -> None:
    for _ in turns(1):
        for name, client in clients.items():
            times.setdefault(name, []).extend(_open(client, target))


def _row(target: str, ours: Times, beside: Times, what: str, goal: Goal) -> Row:
    medians = {name: statistics.median(values) for name, values in ours.items()}
    measures = {name: Measure(micro(median), median / statistics.median(beside[name])) for name, median in medians.items()}
    return Row(target, measures, what, goal)


def of_docker(found: Mapping[str, Version], pid: int) -> list[Row]:
    """Compare `docker:web` with docker's own inspect."""
    ours: Times = {}
    theirs: list[float] = []
    with running(Docker) as docker:
        docker.make("web")
        with _clients(found) as clients:
            for _ in range(3):
                theirs += rounds(_inspect, _COUNT)
                _measure(clients, "docker:web", ours)
    return [_row("docker:web", ours, dict.fromkeys(ours, theirs), "of docker's inspect", at_most(2))]


def of_crun(found: Mapping[str, Version], pid: int) -> list[Row]:
    """Compare `crun:c000` alone with itself beside a docker that accepts connections and never replies, and among many."""
    alone: Times = {}
    beside: Times = {}
    among: Times = {}
    with running(Crun) as crun, tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "silent")
        crun.make("c000")
        with _clients(found, f'[engines]\ndocker = ["{path}"]\n') as clients:
            for _ in range(3):
                _measure(clients, "crun:c000", alone)
                with socket.socket(socket.AF_UNIX) as silent:
                    silent.bind(str(path))
                    silent.listen()
                    _measure(clients, "crun:c000", beside)
                path.unlink()
            for number in range(1, _MANY):
                crun.make(f"c{number:03}")
            _measure(clients, "crun:c000", among)
    return [
        _row("crun:c000, docker silent", beside, alone, "of without docker", at_most(1.3)),
        _row(f"crun:c000 among {_MANY}", among, alone, "of alone", at_most(1.5)),
    ]
