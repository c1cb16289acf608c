"""The examples that are whole tools, and the clients in other languages, with real containers.

None of the containers is called `web`: the control groups are those of the machine, and the demo, whose test may run at the same
time, has one of that name.
"""

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from nsbroker.namespace import Namespace
from tests.engines.conftest import leave_out, started
from tests.engines.real import WORK, Crun
from tests.name_server import name_server
from tests.test_examples import EXAMPLES, Metrics, run_as_nobody, serving
from tests.world import NOBODY, SLOWNESS, Daemon

pytestmark = pytest.mark.root
SHOP, STORE = "examples-shop", "examples-store"


class CrunWithEtc(Crun):
    """crun, with containers that have an /etc of their own, in which is a resolv.conf."""

    def start(self) -> None:
        super().start()
        bundle = WORK / "bundle-examples"
        shutil.copytree(self._bundle, bundle, dirs_exist_ok=True)
        (bundle / "etc").mkdir(exist_ok=True)
        (bundle / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
        config = json.loads((bundle / "config.json").read_text())
        config["mounts"].append({"destination": "/etc", "type": "bind", "source": str(bundle / "etc"), "options": ["bind", "ro"]})
        (bundle / "config.json").write_text(json.dumps(config))
        self._bundle = bundle


@pytest.fixture(scope="module")
def crun() -> Iterator[Crun]:
    """Two containers whose loopback is up."""
    for engine in started(CrunWithEtc):
        assert isinstance(engine, Crun)
        for name in (SHOP, STORE):
            engine.make(name)
            subprocess.run(["nsenter", "--net", "--target", str(engine.pid(name)), "ip", "link", "set", "lo", "up"], check=True)
        yield engine


@pytest.fixture
def broker(crun: Crun, daemon: Daemon) -> Daemon:
    """A broker that lets everybody have sockets in the two containers, and see their resolv.conf."""
    sockets = ["inet:stream", "inet:dgram"]
    daemon.allow("tools", who="everyone", targets=["crun:examples-*"], namespaces=["net"], sockets=sockets, files=["resolv.conf"])
    return daemon


@contextmanager
def page_in(crun: Crun, name: str, port: int) -> Iterator[Namespace]:
    """Serve pages on the loopback of a container, at a port at which no other test has served there."""
    with Namespace.from_pid(crun.pid(name), "net") as network, serving(network, port, Metrics):
        yield network


def test_the_prober_measures_each_container_and_says_which_does_not_listen(crun: Crun, broker: Daemon) -> None:
    with page_in(crun, SHOP, 8080):
        code, output, errors = run_as_nobody(broker, "probe_latency.py", "8080", "--json")
        assert (code, errors) == (1, "")
        results = {result["container"]: result for result in json.loads(output)}
        assert results.keys() == {f"crun:{SHOP}", f"crun:{STORE}"}
        shop, store = results[f"crun:{SHOP}"], results[f"crun:{STORE}"]
        assert (len(shop["seconds"]), shop["port"], shop["error"]) == (5, 8080, None)
        assert all(seconds > 0 for seconds in shop["seconds"])
        assert (store["seconds"], store["error"]) == ([], "Connection refused")
        with page_in(crun, STORE, 8080):
            code, output, errors = run_as_nobody(broker, "probe_latency.py", "8080")
    assert (code, errors) == (0, "")
    head, *rows = (line.split() for line in output.splitlines())
    assert head == ["CONTAINER", "MEDIAN", "HIGHEST"]
    assert sorted((row[0], row[2], row[4]) for row in rows) == [(f"crun:{name}", "ms", "ms") for name in (SHOP, STORE)]
    assert all(0 < float(row[1]) <= float(row[3]) for row in rows)


def test_the_prober_says_what_a_rule_lacks(crun: Crun, broker: Daemon) -> None:
    broker.allow("tools", who="everyone", targets=["crun:examples-*"], namespaces=["net"])
    code, output, errors = run_as_nobody(broker, "probe_latency.py", "8080")
    assert (code, errors) == (1, "")
    assert output.count("permission denied") == 2


def test_the_dns_checker_asks_the_servers_of_each_resolv_conf(crun: Crun, broker: Daemon) -> None:
    with Namespace.from_pid(crun.pid(SHOP), "net") as network:

        def make(family: int, kind: int) -> socket.socket:
            return network.call(socket.socket, family, kind)

        with name_server(make, "127.0.0.1", {"db.test.": ["10.0.0.7", "2001:db8::7"], "empty.test.": []}) as server:
            known = run_as_nobody(broker, "check_dns.py", "db.test")
            assert {kind for _, _, kind in server.asked} == {"A", "AAAA"}
            unknown = run_as_nobody(broker, "check_dns.py", "nothing.test")
            empty = run_as_nobody(broker, "check_dns.py", "empty.test")
    for (code, output, errors), answer in (
        (known, "10.0.0.7 2001:db8::7"),
        (unknown, "the server answered NXDOMAIN"),
        (empty, "the name has no address"),
    ):
        assert (code, errors) == (1, ""), "the other container has no name server"
        rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in output.splitlines()[1:]}
        assert rows == {f"crun:{SHOP}": ["127.0.0.1", answer], f"crun:{STORE}": ["127.0.0.1", "Connection refused"]}


class Client(NamedTuple):
    """A client in another language: its source, the command that compiles it, and a port that no other test uses."""

    source: str
    compiler: tuple[str, ...]
    port: int


CLIENTS = (
    Client("fetch.c", ("gcc", "-Wall", "-Wextra", "-Werror", "-o"), 8081),
    Client("fetch.go", ("go", "build", "-o"), 8082),
)


def go_variables(folder: Path) -> Mapping[str, str]:
    """Return the variables for a Go that downloads nothing, links no C code in, and keeps what it has compiled, where it may."""
    checkout = EXAMPLES.parent
    cache = checkout / "build/go-cache" if os.access(checkout, os.W_OK) else folder / "go-cache"
    return {"GO111MODULE": "off", "GOPROXY": "off", "CGO_ENABLED": "0", "GOCACHE": str(cache)}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can see, unlike those of pytest."""
    with tempfile.TemporaryDirectory(dir="/run") as place:
        Path(place).chmod(0o755)
        yield Path(place)


@pytest.mark.timeout(300 * SLOWNESS)
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.source)
def test_a_client_in_another_language_fetches_a_page(crun: Crun, broker: Daemon, folder: Path, client: Client) -> None:
    compiler, *options = client.compiler
    if shutil.which(compiler) is None:
        leave_out(f"examples/{client.source}, because {compiler} is missing")
    command = [compiler, *options, "fetch", str(EXAMPLES / client.source)]
    subprocess.run(command, cwd=folder, env={**os.environ, **go_variables(folder)}, check=True)

    def fetch(*arguments: str) -> tuple[int, str, str]:
        drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        command = [*drop, str(folder / "fetch"), *arguments]
        environment = {**os.environ, "NSBROKER_ADDRESS": broker.address}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=30 * SLOWNESS)
        return done.returncode, done.stdout, done.stderr

    port = str(client.port)
    with page_in(crun, SHOP, client.port):
        code, output, errors = fetch(SHOP, port, "/metrics")
        assert (code, errors) == (0, "")
        assert output.endswith("asked_for /metrics\n")
    code, output, errors = fetch(SHOP, port, "/metrics")
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert "connection refused" in errors.lower()
    code, output, errors = fetch("examples-nothing", port, "/")
    assert (code, output) == (1, "")
    assert "io.nsbroker.Broker.NoSuchTarget" in errors
    code, output, errors = fetch(SHOP)
    assert (code, output, errors) == (2, "", "usage: fetch CONTAINER PORT PATH\n")
