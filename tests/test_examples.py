"""The examples work as their docstrings say."""

import contextlib
import errno
import http.server
import math
import os
import runpy
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.cli.exporter.open_network import FILES, SOCKET
from nsbroker.linux.process import Process
from nsbroker.model.target import ENGINES
from nsbroker.namespace import Namespace
from tests import prefork
from tests.engines.real import Crun
from tests.world import LINUX, NOBODY, SLOWNESS, Daemon, Sleeper, as_user, named_network, run_command

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments], capture_output=True, text=True, check=False, timeout=30 * SLOWNESS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def start_as_nobody(daemon: Daemon, name: str, *arguments: str) -> subprocess.Popen[str]:
    drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    command = [*drop, sys.executable, str(EXAMPLES / name), *arguments]
    environment = {**os.environ, "NSBROKER_ADDRESS": daemon.address}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def run_as_nobody(daemon: Daemon, name: str, *arguments: str) -> tuple[int, str, str]:
    with start_as_nobody(daemon, name, *arguments) as example:
        output, errors = example.communicate(timeout=30 * SLOWNESS)
    return example.returncode, output, errors


@pytest.fixture
def inside(blue: Path) -> Iterator[Namespace]:
    """The network namespace blue, with its loopback up."""
    subprocess.run(["ip", "-n", "blue", "link", "set", "lo", "up"], check=True)
    with Namespace.from_path(blue, "net") as network:
        yield network


@contextlib.contextmanager
def serving(network: Namespace, port: int, handler: type[socketserver.BaseRequestHandler]) -> Iterator[None]:
    """Run a server on the loopback inside `network`, where its socket is created."""
    with network.call(socketserver.TCPServer, ("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class Metrics(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"asked_for {self.path}\n".encode()
        self.send_response(200 if self.path != "/nowhere" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Print no log, which would disturb the output of the tests."""


class Database(socketserver.BaseRequestHandler):
    """Replies to SSLRequest as a PostgreSQL without TLS does."""

    def handle(self) -> None:
        self.request.sendall(b"N" if self.request.recv(8) == bytes.fromhex("0000000804d2162f") else b"E")


def test_run_inside(sleeper: Sleeper) -> None:
    assert f"net:[{sleeper.inode('net')}] has the interfaces lo" in run("run_inside.py", str(sleeper.pid))


@pytest.mark.root
def test_pass_socket() -> None:
    assert run("pass_socket.py") == "served by uid 65534 on port 80\n"


def test_compare(sleeper: Sleeper) -> None:
    lines = {line.split()[0]: line.split()[1] for line in run("compare.py", str(os.getpid()), str(sleeper.pid)).splitlines()}
    assert {ns_type for ns_type, verdict in lines.items() if verdict == "apart"} == {"ipc", "net", "uts"}
    assert len(lines) == 8


@pytest.mark.root
def test_nsid(daemon: Daemon) -> None:
    with named_network("purple"):
        subprocess.run(["ip", "netns", "set", "purple", "7"], check=True)
        done = run_command("open", "name:purple", "--", sys.executable, str(EXAMPLES / "nsid.py"), address=daemon.address)
    assert "is number 7 here" in done.stdout


def add_container(daemon: Daemon, name: str, pid: int) -> None:
    """Write the state file that crun would write; the process is no real container.  tests/engines has real ones."""
    with Process.open(pid) as process:
        state = f'{{"pid": {pid}, "process-start-time": {process.start_time()}}}'
    (daemon.folder / "crun" / name).mkdir(parents=True)
    (daemon.folder / "crun" / name / "status").write_text(state)


def allow_containers(daemon: Daemon) -> None:
    """Let everyone open the networks of the containers web-*."""
    engines = "".join(f"{name} = []\n" for name in ENGINES if name != "crun")
    (daemon.config / "nsbroker.d/engines.toml").write_text(f'[engines]\ncrun = ["{daemon.folder}/crun"]\n{engines}')
    daemon.allow("agent", who="everyone", targets=["crun:web-*"], namespaces=["net"])


@pytest.mark.root
def test_link_statistics(daemon: Daemon, sleeper: Sleeper) -> None:
    add_container(daemon, "web-1", sleeper.pid)
    allow_containers(daemon)
    _, output, errors = run_as_nobody(daemon, "link_statistics.py")
    assert output.splitlines()[1].split() == ["crun:web-1", "lo", "0", "0"], errors


@pytest.mark.root
def test_watch_agent(daemon: Daemon) -> None:
    daemon.allow("watching", who="everyone", targets=["crun:web-*"], namespaces=["net"], sockets=["inet:dgram"])
    allow_containers(daemon)
    with Sleeper() as first, start_as_nobody(daemon, "watch_agent.py") as agent:
        add_container(daemon, "web-1", first.pid)
        assert agent.stdout is not None
        with Sleeper() as second:
            add_container(daemon, "web-2", second.pid)
            assert {agent.stdout.readline(), agent.stdout.readline()} == {"+ crun:web-1\n", "+ crun:web-2\n"}
        assert agent.stdout.readline() == "- crun:web-2\n"
        agent.terminate()


@pytest.mark.root
def test_shared_networks(daemon: Daemon) -> None:
    own = os.stat("/proc/self/ns/net").st_ino
    with Sleeper() as other, subprocess.Popen(["sleep", "60"]) as process:
        for number, pid in enumerate((os.getpid(), other.pid, process.pid), start=1):
            add_container(daemon, f"web-{number}", pid)
        allow_containers(daemon)
        _, output, errors = run_as_nobody(daemon, "shared_networks.py")
        process.kill()
        lines = {(line.split()[0], *sorted(line.split()[1:])) for line in output.splitlines()}
        expected = {(f"net:[{own}]", "crun:web-1", "crun:web-3"), (f"net:[{other.inode('net')}]", "crun:web-2")}
        assert lines == expected, errors


@pytest.mark.root
def test_scrape_metrics(daemon: Daemon, inside: Namespace) -> None:
    daemon.allow("scraper", who=[f"user:{NOBODY}"], targets=["name:blue"], sockets=["inet:stream"])
    with serving(inside, 8080, Metrics):
        assert run_as_nobody(daemon, "scrape_metrics.py", "name:blue") == (0, "asked_for /metrics\n", "")
        assert run_as_nobody(daemon, "scrape_metrics.py", "name:blue", "8080", "/up?now") == (0, "asked_for /up?now\n", "")
        missing = run_as_nobody(daemon, "scrape_metrics.py", "name:blue", "8080", "/nowhere")
        assert missing == (1, "", "cannot fetch /nowhere: 404 Not Found\n")
    code, output, errors = run_as_nobody(daemon, "scrape_metrics.py", "name:blue")
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert "Connection refused" in errors


@pytest.mark.root
def test_links_and_routes(daemon: Daemon, inside: Namespace) -> None:
    for change in (
        "link add uplink type veth peer name other",
        "link set other address 02:00:00:00:00:02",
        "link set uplink address 02:00:00:00:00:01 up",
        "addr add 10.9.0.2/24 dev uplink",
        "route add default via 10.9.0.1",
    ):
        subprocess.run(["ip", "-n", "blue", *change.split()], check=True)
    daemon.allow("viewer", who=[f"user:{NOBODY}"], targets=["name:blue"], sockets=["netlink:dgram"])
    before = subprocess.run(["ip", "-n", "blue", "addr"], capture_output=True, check=True).stdout
    code, output, errors = run_as_nobody(daemon, "links_and_routes.py", "name:blue")
    assert (code, errors) == (0, "")
    assert [line.split() for line in output.splitlines()] == [
        ["link", "lo", "up", "00:00:00:00:00:00", "read", "only"],
        ["link", "other", "down", "02:00:00:00:00:02", "read", "only"],
        ["link", "uplink", "up", "02:00:00:00:00:01", "read", "only"],
        ["route", "default", "10.9.0.1", "uplink"],
        ["route", "10.9.0.0/24", "-", "uplink"],
    ]
    assert subprocess.run(["ip", "-n", "blue", "addr"], capture_output=True, check=True).stdout == before


@pytest.mark.root
def test_a_process_with_a_netlink_socket_cannot_set_a_link_down(daemon: Daemon, inside: Namespace) -> None:
    daemon.allow("viewer", who=[f"user:{NOBODY}"], targets=["name:blue"], sockets=["netlink:dgram"])

    def set_down() -> str:
        example = runpy.run_path(str(EXAMPLES / "links_and_routes.py"))
        os.environ["NSBROKER_ADDRESS"] = daemon.address
        with example["route_socket"]("name:blue") as routes, pytest.raises(example["pyroute2"].NetlinkError) as refused:
            routes.link("set", index=1, state="down")
        return errno.errorcode[refused.value.code]

    assert as_user(NOBODY, set_down) == "EPERM"
    assert "LOOPBACK,UP" in subprocess.run(["ip", "-n", "blue", "link"], capture_output=True, text=True, check=True).stdout


@pytest.mark.root
def test_count_packets(daemon: Daemon, inside: Namespace) -> None:
    # The packets are sent within this time.
    seconds = math.ceil(SLOWNESS)
    daemon.allow("sniffer", who=[f"user:{NOBODY}"], targets=["name:blue"], sockets=["packet:dgram"])
    with start_as_nobody(daemon, "count_packets.py", "name:blue", str(seconds)) as example:
        assert example.stdout is not None
        assert example.stdout.readline() == f"counting the packets of name:blue for {seconds} seconds\n"
        for family, address, times in ((socket.AF_INET, "127.0.0.1", 7), (socket.AF_INET6, "::1", 3)):
            with (
                inside.call(socket.socket, family, socket.SOCK_DGRAM) as receiver,
                inside.call(socket.socket, family, socket.SOCK_DGRAM) as sender,
            ):
                receiver.bind((address, 9999))
                for _ in range(times):
                    sender.sendto(b"packet", (address, 9999))
        output, errors = example.communicate(timeout=30 * SLOWNESS)
    assert (example.returncode, errors) == (0, "")
    assert {tuple(line.split()) for line in output.splitlines()} >= {("ipv4", "udp", "7"), ("ipv6", "udp", "3")}


@pytest.mark.root
def test_forward_database(daemon: Daemon, inside: Namespace) -> None:
    daemon.allow("database", who=[f"user:{NOBODY}"], targets=["name:blue"], sockets=["inet:stream"])
    with serving(inside, 5432, Database):
        code, output, errors = run_as_nobody(daemon, "forward_database.py", "name:blue")
    assert (code, errors) == (0, "")
    first, last = output.splitlines()
    assert first.startswith("name:blue is reached at 127.0.0.1 port ")
    assert first.endswith(": PostgreSQL, without TLS")
    assert last == "no longer forwarded"
    port = int(first.split(":")[1].split()[-1])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    code, output, errors = run_as_nobody(daemon, "forward_database.py", "name:blue")
    assert (code, output, errors.splitlines()[-1]) == (1, "", "nothing answers in name:blue")


@pytest.mark.root
@pytest.mark.parametrize("name", ["scrape_metrics.py", "links_and_routes.py", "count_packets.py", "forward_database.py"])
def test_an_example_says_in_one_line_that_it_is_not_allowed(daemon: Daemon, inside: Namespace, name: str) -> None:
    daemon.allow("another", who=[f"user:{NOBODY}"], targets=["name:blue"], sockets=["unix:stream"])
    code, output, errors = run_as_nobody(daemon, name, "name:blue")
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert "permission denied" in errors


WRONG_ARGUMENTS = {
    "check_dns.py": [[], ["a..b"], ["a", "b"]],
    "compare.py": [[], ["1"], ["1", "x"], ["1", "2", "3"]],
    "count_packets.py": [[], ["name:blue", "soon"], ["name:blue", "1", "2"]],
    "forward_database.py": [[], ["blue"], ["name:blue", "1"]],
    "link_statistics.py": [["x"]],
    "links_and_routes.py": [[], ["name:blue", "1"]],
    "nsid.py": [["x"]],
    "pass_socket.py": [["x"]],
    "plugin_sandbox.py": [[], ["name:blue", "1"], ["--plugin"]],
    "probe_latency.py": [[], ["http"], ["80", "--table"]],
    "run_inside.py": [[], ["x"], ["1", "2"]],
    "scrape_metrics.py": [[], ["name:blue", "http"], ["name:blue", "80", "/", "x"]],
    "shared_networks.py": [["x"]],
    "watch_agent.py": [["x"]],
}
TAKE_TARGETS = ("count_packets.py", "links_and_routes.py", "plugin_sandbox.py", "scrape_metrics.py")
ASK_THE_BROKER: dict[str, list[str]] = {
    **{name: ["name:blue"] for name in (*TAKE_TARGETS, "forward_database.py")},
    "check_dns.py": ["db.test"],
    "link_statistics.py": [],
    "probe_latency.py": ["8080"],
    "shared_networks.py": [],
    "watch_agent.py": [],
}
"""The examples that ask the broker, and right arguments for each."""


def run_in_one_line(name: str, arguments: list[str], code: int, address: str) -> str:
    """Run an example, check that it fails with this exit code and one line on standard error, and return the line."""
    done = prefork.run([str(EXAMPLES / name), *arguments], 30, environment={**os.environ, "NSBROKER_ADDRESS": address})
    assert (done.returncode, done.stdout) == (code, ""), done
    [line] = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_with_wrong_arguments_says_in_one_line_how_to_call_it(name: str) -> None:
    for arguments in WRONG_ARGUMENTS[name]:
        line = run_in_one_line(name, arguments, 2, "unix:/run/nowhere/socket")
        assert "is no target" in line or line.startswith("usage: "), arguments


@pytest.mark.parametrize("name", ASK_THE_BROKER)
def test_an_example_without_a_broker_says_in_one_line_what_to_start(daemon: Daemon, name: str) -> None:
    assert "is the daemon running?" in run_in_one_line(name, ASK_THE_BROKER[name], 1, "unix:/run/nowhere/socket")
    if name in TAKE_TARGETS:
        assert "is no target: write KIND:VALUE, such as name:blue" in run_in_one_line(name, ["blue"], 2, daemon.address)


def test_the_policy_for_monitoring_is_valid(tmp_path: Path) -> None:
    copy = tmp_path / "monitoring.toml"
    copy.write_text((EXAMPLES / "monitoring.toml").read_text())
    checked = run_command("check-config", "--config", str(copy))
    assert checked.returncode == 0, checked.stderr
    assert "cri:default/*/*" in checked.stdout


def test_the_policy_for_the_exporter_allows_what_it_asks_for(tmp_path: Path) -> None:
    copy = tmp_path / "exporter.toml"
    copy.write_text((EXAMPLES / "exporter.toml").read_text())
    checked = run_command("check-config", "--config", str(copy))
    assert (checked.returncode, checked.stderr) == (0, "")
    assert all(word in checked.stdout for word in (*FILES, SOCKET))


@pytest.mark.root
@pytest.mark.skipif(
    bool(Crun.missing()) and os.environ.get("ENGINES") != "all", reason="crun or busybox is missing, and tests install no engine"
)
@pytest.mark.timeout(200 * SLOWNESS)
def test_the_demo_shows_what_it_promises() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NSBROKER_ADDRESS"}
    done = subprocess.run(
        [EXAMPLES / "demo.sh"], capture_output=True, text=True, check=False, timeout=180 * SLOWNESS, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    via = ["8080      0.0.0.0:*", "open a socket inet:stream in name:blue: permission denied"] if LINUX >= (5, 14) else []
    for words in (
        *via,
        '"wanted":"file net/dev"',
        "65534 (nobody)",
        "net:[",
        "is number 7 here",
        "crun:web",
        "permission denied",
        "exit code 1",
        "requests_total 42: from the loopback of 'web'",
        "open a socket packet:dgram in crun:web: permission denied",
        '"verdict":"denied"',
        "Cleaned up",
    ):
        assert words in done.stdout + done.stderr


@pytest.mark.root
def test_plugin_sandbox(daemon: Daemon, blue: Path) -> None:
    inode = os.stat(blue).st_ino
    refused = ["the net namespace of process ", "the mnt namespace of name:blue", "a socket in name:blue", "a new namespace"]
    daemon.allow("host", who=[f"user:{NOBODY}"], targets=["name:*", "own"], namespaces=["*"], sockets=["*"], create=["*"])
    as_nobody = run_as_nobody(daemon, "plugin_sandbox.py", "name:blue")
    as_root = subprocess.run(
        [sys.executable, EXAMPLES / "plugin_sandbox.py", "name:blue"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30 * SLOWNESS,
        env={**os.environ, "NSBROKER_ADDRESS": daemon.address},
    )
    for code, output, errors in (as_nobody, (as_root.returncode, as_root.stdout, as_root.stderr)):
        assert (code, errors) == (0, "")
        first, *others = output.splitlines()
        assert first == f"opened net:[{inode}] of name:blue"
        assert len(others) == len(refused)
        assert all(line.startswith(f"refused: {what}") for line, what in zip(others, refused, strict=True))
    code, output, errors = run_as_nobody(daemon, "plugin_sandbox.py", "name:green")
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert {record["peer_uid"] for record in daemon.records()} == {0, NOBODY}, "the broker takes the plugin for who connected"
