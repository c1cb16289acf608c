"""`nsbroker forward --reverse`: it listens inside a real network, for a user, and leads to servers here."""

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.namespace import Namespace
from tests.cli.conftest import accepted, one_line, port_of
from tests.cli.forwarding.running import Forward, ask
from tests.world import ALICE, PATIENCE, Daemon, run_command

pytestmark = pytest.mark.root

SOCKETS = ["inet:stream", "inet6:stream", "inet:stream:80", "inet:dgram", "unix:stream"]


@pytest.fixture
def rule(daemon: Daemon, blue: Path) -> None:
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["name:*"], sockets=SOCKETS)
    subprocess.run(["ip", "-n", "blue", "link", "set", "lo", "up"], check=True)


@pytest.fixture
def here() -> Iterator[socket.socket]:
    """A server of this process's network."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        yield listener


def connect_inside(port: int, address: str = "127.0.0.1") -> socket.socket:
    with Namespace.from_name("blue", "net") as network:
        return network.call(lambda: socket.create_connection((address, port), timeout=PATIENCE))


def free_port() -> int:
    with Namespace.from_name("blue", "net") as network, network.call(lambda: socket.create_server(("127.0.0.1", 0))) as listener:
        return port_of(listener)


def test_a_connection_inside_leads_here(daemon: Daemon, rule: None, here: socket.socket) -> None:
    with Forward(daemon, f"--reverse=0:{port_of(here)}") as forward:
        assert forward.printed[0].startswith("name:blue, 127.0.0.1:")
        assert forward.printed[0].endswith(f" leads to port {port_of(here)} here")
        with connect_inside(forward.port()) as client, accepted(here) as server:
            ask(client, server)
        assert forward.end() == (0, [])


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_it_leads_to_any_host_that_is_reached_from_here(daemon: Daemon, rule: None, here: socket.socket, host: str) -> None:
    with contextlib.ExitStack() as stack:
        forward = stack.enter_context(Forward(daemon, f"--reverse=[::1]:0:{host}:{port_of(here)}"))
        client = stack.enter_context(connect_inside(forward.port(), "::1"))
        ask(client, stack.enter_context(accepted(here)))


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """The only name server of this host, for as long as the test runs.  It never answers."""
    configuration = Path("/etc/resolv.conf")
    before = configuration.with_name("resolv.conf.before")
    # It can be a link to a file below /run, which is empty here.
    with contextlib.suppress(FileNotFoundError):
        configuration.rename(before)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.5", 53))
        server.settimeout(PATIENCE)
        configuration.write_text("nameserver 127.0.0.5\noptions timeout:30 attempts:5\n")
        yield server
    configuration.unlink()
    with contextlib.suppress(FileNotFoundError):
        before.rename(configuration)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_while_no_name_server_answers(daemon: Daemon, rule: None, silent: socket.socket, number: int) -> None:
    with Forward(daemon, "--reverse=0:slow.test:80") as forward, connect_inside(forward.port()):
        assert b"slow" in silent.recv(512)
        assert forward.end(number) == (0, [])


def test_several_ways_at_once(daemon: Daemon, rule: None, here: socket.socket) -> None:
    port = free_port()
    # What is forwarded into blue is forwarded out of it again.
    arguments = (f"0:{port}", f"--reverse={port}:{port_of(here)}", f"--reverse=0:{port_of(here)}")
    with Forward(daemon, *arguments) as forward:
        with forward.connect(0) as client, accepted(here) as server:
            ask(client, server)
        with connect_inside(forward.port(2)) as client, accepted(here) as server:
            ask(client, server)
        assert forward.end() == (0, [])


def test_a_privileged_port_takes_its_permission(daemon: Daemon, rule: None, here: socket.socket) -> None:
    with Forward(daemon, f"--reverse=80:{port_of(here)}") as forward, connect_inside(80) as client, accepted(here) as server:
        ask(client, server)
        assert forward.printed == [f"name:blue, 127.0.0.1:80 leads to port {port_of(here)} here"]
    done = run_command("forward", "name:blue", f"--reverse=443:{port_of(here)}", uid=ALICE, address=daemon.address)
    line = one_line(done, 1)
    assert "cannot listen on name:blue, 127.0.0.1:443" in line
    assert "inet:stream:443" in line


def test_a_port_that_is_taken_inside_is_one_line(daemon: Daemon, rule: None, here: socket.socket) -> None:
    with Namespace.from_name("blue", "net") as network, network.call(lambda: socket.create_server(("127.0.0.1", 0))) as taken:
        port = port_of(taken)
        done = run_command("forward", "name:blue", f"--reverse={port}:1", uid=ALICE, address=daemon.address)
    assert one_line(done, 1) == f"nsbroker: cannot listen on name:blue, 127.0.0.1:{port}: Address already in use"


def test_an_abstract_socket_inside_leads_here(daemon: Daemon, rule: None, here: socket.socket) -> None:
    name = f"@nsbroker-{os.getpid()}"
    with Forward(daemon, f"--reverse=unix:{name}:{port_of(here)}") as forward:
        assert forward.printed == [f"name:blue, unix:{name} leads to port {port_of(here)} here"]
        with Namespace.from_name("blue", "net") as network:
            client = network.call(lambda: socket.socket(socket.AF_UNIX))
        with client:
            client.settimeout(PATIENCE)
            client.connect(name.replace("@", "\0"))
            with accepted(here) as server:
                ask(client, server)


def test_the_file_of_a_unix_socket_cannot_be_made_inside(daemon: Daemon, rule: None) -> None:
    line = one_line(run_command("forward", "name:blue", "--reverse=unix:/x:80", uid=ALICE, address=daemon.address), 2)
    assert "use unix:@NAME inside" in line


def test_it_listens_again_when_the_target_was_restarted(daemon: Daemon, rule: None, here: socket.socket) -> None:
    with Forward(daemon, f"--reverse=0:{port_of(here)}") as forward:
        with contextlib.ExitStack() as stack:
            old, server = stack.enter_context(connect_inside(forward.port())), stack.enter_context(accepted(here))
            ask(old, server)
            subprocess.run(["ip", "netns", "del", "blue"], check=True)
            # It says once that it cannot listen.
            error = forward.error_line()
            assert error.startswith("nsbroker: name:blue, 127.0.0.1:")
            assert error.endswith("It will listen again as soon as it can")
            subprocess.run(["ip", "netns", "add", "blue"], check=True)
            subprocess.run(["ip", "-n", "blue", "link", "set", "lo", "up"], check=True)
            assert forward.line() == forward.printed[0]
            # What was open in the old network is reset.
            with pytest.raises(ConnectionResetError):
                old.recv(1)
        with connect_inside(forward.port()) as client, accepted(here) as server:
            ask(client, server)
        # The broker may be restarted as well.
        daemon.stop()
        daemon.start()
        with connect_inside(forward.port()) as client, accepted(here) as server:
            ask(client, server)
        assert forward.end()[0] == 0


def test_it_ends_when_nobody_reads_its_events(daemon: Daemon, rule: None, here: socket.socket) -> None:
    with Forward(daemon, f"--reverse=0:{port_of(here)}", "--json", lines=1) as forward:
        forward.leave()
        with connect_inside(int(json.loads(forward.printed[0])["listen"].rpartition(":")[2])):
            assert forward.wait() == (1, [])


def test_without_a_rule_it_fails_at_once(daemon: Daemon, blue: Path) -> None:
    line = one_line(run_command("forward", "name:blue", "--reverse=8080:80", uid=ALICE, address=daemon.address), 1)
    assert "permission denied" in line
