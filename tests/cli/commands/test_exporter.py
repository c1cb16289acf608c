"""`nsbroker exporter`: an ordinary user serves the numbers of networks, which are those that the kernel shows inside."""

import os
import re
import resource
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from nsbroker.cli.exporter.open_network import OpenNetwork
from nsbroker.linux import sock_diag
from nsbroker.model.target import ENGINES
from nsbroker.namespace import Namespace
from tests.cli.conftest import one_line
from tests.exporter_process import PERMISSIONS, Exporter, Sample, Scrape
from tests.test_examples import add_container
from tests.world import ALICE, PATIENCE, Daemon, Sleeper, as_user, eventually, listen_inside, named_network, run_command

pytestmark = pytest.mark.root

LO = {"device": "lo"}


def use_state_files(daemon: Daemon, engines: str = "") -> None:
    """Have the broker know the containers of `add_container` alone; tests/engines has real ones."""
    others = "".join(f"{name} = []\n" for name in ENGINES if name != "crun" and name not in engines)
    (daemon.config / "nsbroker.d/engines.toml").write_text(f'[engines]\ncrun = ["{daemon.folder}/crun"]\n{engines}{others}')
    daemon.allow("exporter", who=[f"user:{ALICE}"], targets=["crun:*", "docker:*", "name:*"], **PERMISSIONS)


@contextmanager
def container(daemon: Daemon, name: str) -> Iterator[Namespace]:
    """A process in a network of its own, whose loopback is up, as a container.  Yields the network."""
    with Sleeper("--net") as process, Namespace.from_pid(process.pid, "net") as network:
        network.call(subprocess.run, ["ip", "link", "set", "lo", "up"])
        add_container(daemon, name, process.pid)
        yield network


def inside(network: Namespace, name: str) -> str:
    return network.call(lambda: Path(f"/proc/thread-self/net/{name}").read_text())


def check_numbers(scrape: Scrape, network: Namespace, **labels: str) -> None:
    """Check that the numbers are those in the files of the network, which nobody uses at the moment."""
    [line] = [line for line in inside(network, "dev").splitlines() if line.strip().startswith("lo:")]
    values = [int(value) for value in line.split()[1:]]
    for direction, first in (("receive", 0), ("transmit", 8)):
        for place, name in enumerate(("bytes", "packets", "errs", "drop")):
            assert scrape.value(f"network_{direction}_{name}_total", **LO, **labels) == values[first + place], name
    for file, names in {
        "snmp": {"InSegs": "received_segments", "OutSegs": "sent_segments", "RetransSegs": "retransmitted_segments"},
        "netstat": {"ListenOverflows": "listen_overflows", "ListenDrops": "listen_drops"},
    }.items():
        group = "Tcp:" if file == "snmp" else "TcpExt:"
        head, numbers = (line.split() for line in inside(network, file).splitlines() if line.startswith(group))
        for key, name in names.items():
            assert scrape.value(f"tcp_{name}_total", **labels) == int(numbers[head.index(key)]), key
    for file in ("sockstat", "sockstat6"):
        for protocol, number in re.findall(r"^([A-Z0-9]+): inuse (\d+)", inside(network, file), re.MULTILINE):
            if not protocol.startswith(("FRAG", "UDPLITE")):
                assert scrape.value("sockets_in_use", protocol=protocol, **labels) == int(number), protocol
    lines = [line for file in ("tcp", "tcp6") for line in inside(network, file).splitlines()[1:]]
    states = Counter(sock_diag.STATES[int(line.split()[3], 16) - 1] for line in lines)
    for state in sock_diag.STATES:
        assert scrape.value("tcp_connection_states", state=state, **labels) == states[state], state


def test_the_numbers_are_those_inside_for_two_exporters_side_by_side(daemon: Daemon, blue: Path) -> None:
    use_state_files(daemon)
    with ExitStack() as stack:
        web, other = stack.enter_context(container(daemon, "web")), stack.enter_context(container(daemon, "other"))
        listener = stack.enter_context(web.call(lambda: socket.create_server(("127.0.0.1", 0), backlog=0)))
        stack.enter_context(web.call(lambda: socket.create_server(("::1", 0), family=socket.AF_INET6)))
        client = stack.enter_context(web.call(socket.create_connection, listener.getsockname()))
        client.send(b"hello")
        exporters = [stack.enter_context(Exporter(daemon, ALICE)) for _ in range(2)]
        for exporter in exporters:
            scrape = exporter.shows("crun:web", "crun:other", "name:blue")
            # Of an acknowledgement that was under way, the scrape may have seen only the beginning.
            eventually(lambda: equal(exporter.scrape(), web), "the numbers of web are those inside")  # noqa: B023 - called at once
            check_numbers(scrape, other, engine="crun", container="other", pod="", namespace="")
            assert scrape.value("tcp_connection_states", container="web", state="established") == 2
            assert scrape.value("tcp_connection_states", container="web", state="listen") == 2
            assert scrape.value("broker_up") == scrape.value("engine_up", engine="crun") == 1
            assert scrape.value("container_info", container="web", network="web") == 1
    assert [exporter.errors for exporter in exporters] == ["", ""]


def equal(scrape: Scrape, network: Namespace) -> bool:
    try:
        check_numbers(scrape, network, engine="crun", container="web")
    except AssertionError:
        return False
    return True


def test_root_of_a_network_cannot_answer_in_the_place_of_the_kernel(daemon: Daemon, blue: Path) -> None:
    daemon.allow("exporter", who=["user:root"], targets=["name:blue"], **PERMISSIONS)
    with daemon.connect() as broker, listen_inside("blue"), closing(OpenNetwork.open(broker, "name:blue")) as network:
        assert network.read().tcp_states["listen"] == 1
        assert network._socket is not None
        port, _ = network._socket.getsockname()
        kind = (socket.AF_NETLINK, socket.SOCK_DGRAM, sock_diag.PROTOCOL)
        with Namespace.from_path(blue, "net") as ns, ns.call(socket.socket, *kind) as sender, pytest.raises(ConnectionRefusedError):
            sender.sendto(b"a false answer", (port, 0))
        assert network.read().tcp_states["listen"] == 1


def files_of_networks(pid: int) -> list[str]:
    """Return the files of /proc/net that a process has open."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        # Other descriptors come and go.
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return [path for path in found if "/net/" in path]


def test_containers_that_come_and_go_do_so_in_the_metrics_and_nothing_keeps_their_networks(daemon: Daemon) -> None:
    use_state_files(daemon)
    with Exporter(daemon, ALICE) as exporter, container(daemon, "stays"):
        exporter.shows("crun:stays")
        with container(daemon, "goes"), named_network("green"):
            exporter.shows("crun:stays", "crun:goes", "name:green")
        exporter.shows("crun:stays")
        # Those of the network that stays.
        assert len(files_of_networks(exporter.pid)) == 5


def limit_files(pid: int, number: int) -> None:
    """Set the limit of the number of files that a process of ALICE's can have open."""

    def limit() -> None:
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (number, hard))

    as_user(ALICE, limit)


def test_at_the_limit_of_open_files_only_the_networks_that_are_new_are_left_out(daemon: Daemon, blue: Path) -> None:
    use_state_files(daemon)
    with Exporter(daemon, ALICE) as exporter:
        exporter.shows("name:blue")
        # Too few for another network.
        limit_files(exporter.pid, len(os.listdir(f"/proc/{exporter.pid}/fd")) + 4)
        with named_network("green"):
            eventually(lambda: exporter.scrape().value("target_up", container="green") == 0, "it knows the new network")
            # Nothing else has changed, also after another look.
            with named_network("red"):
                eventually(lambda: exporter.scrape().value("target_up", container="red") == 0, "it knows the new network")
            assert exporter.scrape().value("broker_up") == 1
            exporter.shows("name:blue")
            limit_files(exporter.pid, 1024)
            with named_network("red"):
                exporter.shows("name:blue", "name:green", "name:red")
    assert "open files: raise the hard limit, with LimitNOFILE= in its unit" in exporter.errors
    assert "what there is cannot be listed" not in exporter.errors


def states_of(exporter: Exporter, name: str) -> list[Sample]:
    return exporter.scrape().samples("tcp_connection_states", container=name)


def test_what_no_rule_allows_is_left_out_and_comes_with_the_rule(daemon: Daemon, blue: Path) -> None:
    rule = {"who": [f"user:{ALICE}"], "targets": ["name:*"]}
    daemon.allow("exporter", **rule, namespaces=["net"])
    with Exporter(daemon, ALICE) as exporter:
        assert exporter.scrape().value("target_up", container="blue") == 0
        daemon.allow("links", **rule, files=["net/dev"])
        # Something changes, so the exporter looks at once.
        with named_network("green"):
            scrape = exporter.shows("name:blue", "name:green")
        assert scrape.value("network_receive_bytes_total", container="blue", **LO) is not None
        assert scrape.samples("tcp_connection_states") == scrape.samples("sockets_in_use") == []
        daemon.allow("all", **rule, **PERMISSIONS)
        with named_network("green"):
            eventually(lambda: len(states_of(exporter, "blue")) == len(sock_diag.STATES), "the new rule is used")
    assert re.fullmatch("nsbroker: 1 of 1 networks cannot be opened: read .* of name:blue: permission denied.*\n", exporter.errors)


def test_a_network_that_was_refused_is_asked_for_again_as_that_of_another_container(daemon: Daemon) -> None:
    use_state_files(daemon)
    daemon.allow("exporter", who=[f"user:{ALICE}"], targets=["crun:*", "name:*"], namespaces=["net"])
    daemon.allow("second", who=[f"user:{ALICE}"], targets=["crun:second"], **PERMISSIONS)
    with Sleeper("--net") as one, Namespace.from_pid(one.pid, "net") as network, network.call(Sleeper, "") as other:
        # The network is that of the container whose process has the lower number.
        for name, pid in zip(("first", "second"), sorted((one.pid, other.pid)), strict=True):
            add_container(daemon, name, pid)
        with Exporter(daemon, ALICE) as exporter:
            assert exporter.scrape().value("target_up", container="first") == 0
            shutil.rmtree(daemon.folder / "crun/first")
            # Something changes, so the exporter looks at once.
            with named_network("green"):
                exporter.shows("crun:second")


def test_a_silent_engine_costs_only_its_own_metrics_and_one_that_fails_later_not_even_those(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with (
        Daemon(tmp_path, limits="engine-deadline = 0.5") as daemon,
        socket.socket(socket.AF_UNIX) as docker,
        container(daemon, "web"),
    ):
        docker.bind(str(path))
        docker.listen()
        use_state_files(daemon, f'docker = ["{path}"]\n')
        with Exporter(daemon, ALICE) as exporter:
            scrape = exporter.shows("crun:web")
            assert (scrape.value("engine_up", engine="docker"), scrape.value("engine_up", engine="crun")) == (0, 1)
            # The broker does not trust what everybody could have written.
            (daemon.folder / "crun").chmod(0o777)
            with named_network("green"):
                eventually(lambda: exporter.scrape().value("engine_up", engine="crun") == 0, "the exporter notices")
            scrape = exporter.scrape()
            assert "crun:web" in scrape.containers()
            assert scrape.value("network_receive_bytes_total", container="web", **LO) is not None
            (daemon.folder / "crun").chmod(0o755)
            with named_network("green"):
                eventually(lambda: exporter.scrape().value("engine_up", engine="crun") == 1, "the exporter notices")
    assert "nsbroker: the containers of docker are not listed: " in exporter.errors


def test_while_the_broker_is_away_the_numbers_go_on(daemon: Daemon, blue: Path) -> None:
    use_state_files(daemon)
    with Exporter(daemon, ALICE) as exporter:
        exporter.shows("name:blue")
        daemon.stop()
        eventually(lambda: exporter.scrape().value("broker_up") == 0, "the exporter notices")
        assert exporter.scrape().containers() == {"name:blue"}
        daemon.start()
        eventually(lambda: exporter.scrape().value("broker_up") == 1, "the exporter notices")
    assert [line for line in exporter.errors.splitlines() if "what there is cannot be listed" not in line] == []


def test_a_unix_socket(daemon: Daemon, blue: Path) -> None:
    use_state_files(daemon)
    path = daemon.socket.with_name("metrics")
    with Exporter(daemon, 0, f"unix:{path}") as exporter:
        assert path.is_socket()
        assert "name:blue" in exporter.scrape().containers()
    assert not path.exists()


def test_hostile_clients_cost_nothing_else(daemon: Daemon) -> None:
    with Exporter(daemon, ALICE) as exporter, ExitStack() as stack:
        host, _, port = exporter.host.rpartition(":")

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection((host, int(port)), PATIENCE))

        idle, nonsense = connect(), connect()
        idle.send(b"GET /metrics")
        nonsense.send(b"\x16\x03\x01\r\n\r\n")
        assert exporter.scrape().value("broker_up") == 1
        nonsense.recv(100)
        others = [connect() for _ in range(9)]
        # It waits for the requests of some of them, and hangs up on the others.
        assert others[-1].recv(1) == b""
    assert exporter.errors == ""


def test_failures_are_one_line(daemon: Daemon, tmp_path: Path) -> None:
    assert "is not [ADDRESS:]PORT or unix:PATH" in one_line(run_command("exporter", "--listen", "x", address=daemon.address), 2)
    assert "every address of this host" in one_line(run_command("exporter", "--listen", ":80", address=daemon.address), 2)
    assert "is the daemon running?" in one_line(run_command("exporter", address="unix:/run/nowhere/socket"), 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_command("exporter", "--listen", str(taken.getsockname()[1]), address=daemon.address)
        assert "Address already in use" in one_line(done, 1)
    # As on a system without the package.
    (tmp_path / "prometheus_client.py").write_text("raise ImportError(name='prometheus_client')\n")
    for command in (["exporter"], ["status", "--prometheus"]):
        done = run_command(*command, address=daemon.address, cwd=tmp_path)
        assert re.search(r"needs the package prometheus_client: .* -m pip install '\.\[exporter\]'", one_line(done, 1))
