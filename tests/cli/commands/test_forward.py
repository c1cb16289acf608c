"""`nsbroker forward`, run by a user whom a rule allows sockets, into a real network with a real server."""

import contextlib
import math
import os
import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import accepted, break_off, one_line, port_of, read_all
from tests.cli.forwarding.running import Forward, ask
from tests.world import ALICE, BOB, PATIENCE, SLOWNESS, Daemon, eventually, listen_inside, run_command, start_command

pytestmark = pytest.mark.root

_MANY = 1000


@pytest.fixture
def forward(daemon: Daemon, server: socket.socket) -> Iterator[Forward]:
    """A running `nsbroker forward` that forwards to `server`."""
    with Forward(daemon, f"0:{port_of(server)}") as running:
        yield running


@pytest.fixture
def many_files() -> Iterator[None]:
    """Raise the number of files that this process may open to the hard limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_bytes_go_both_ways_until_both_have_ended(forward: Forward, server: socket.socket) -> None:
    with forward.connect() as client, accepted(server) as inside:
        ask(client, inside)
        client.shutdown(socket.SHUT_WR)
        assert inside.recv(1) == b""
        inside.sendall(b"the answer to all that")
        inside.close()
        assert read_all(client) == b"the answer to all that"
    assert forward.end() == (0, [])


def test_a_server_that_ends_first_still_receives_the_rest(forward: Forward, server: socket.socket) -> None:
    with forward.connect() as client, accepted(server) as inside:
        inside.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        client.sendall(b"the rest")
        client.close()
        assert read_all(inside) == b"the rest"


def test_each_of_several_ports_of_both_families_is_printed(daemon: Daemon, server: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        local = port_of(free)
    port = port_of(server)
    with listen_inside("blue", "::1") as other:
        specs = (port, f"{local}:{port}", f"localhost:0:{port}", f"[::1]:0:{port_of(other)}")
        with Forward(daemon, *specs) as forward:
            assert forward.printed[0] == f"127.0.0.1:{port} leads to name:blue port {port}"
            assert forward.printed[1] == f"127.0.0.1:{local} leads to name:blue port {port}"
            assert forward.printed[2].endswith(f" leads to name:blue port {port}")
            assert re.fullmatch(rf"\[::1\]:[0-9]+ leads to name:blue port {port_of(other)}", forward.printed[3])
            for which, listener in enumerate((server, server, server, other)):
                with forward.connect(which) as client, accepted(listener) as inside:
                    ask(client, inside)


def test_a_port_where_nobody_listens_is_a_reset_and_a_line_and_it_goes_on(forward: Forward, server: socket.socket) -> None:
    port = port_of(server)
    server.close()
    with forward.connect() as client, pytest.raises(ConnectionResetError):
        client.recv(1)
    with listen_inside("blue", port=port) as again, forward.connect() as client, accepted(again) as inside:
        ask(client, inside)
    assert forward.end() == (0, [f"nsbroker: name:blue port {port}: Connection refused"])


@pytest.mark.parametrize(("spec", "reason"), [("{port}:80", "in use"), ("a..b:0:80", "label")])
def test_an_address_where_it_cannot_listen_is_one_line(daemon: Daemon, server: socket.socket, spec: str, reason: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_command("forward", "name:blue", spec.format(port=port_of(taken)), uid=ALICE, address=daemon.address)
    line = one_line(done, 1)
    assert "cannot listen on" in line
    assert reason in line


@pytest.mark.parametrize("spec", ["0", "80:0", "65536", "65536:80", "80:80:80", "::1:80:80", "[::1:80:80", ":80", "80:", "http"])
def test_a_wrong_spec_is_wrong_usage(spec: str) -> None:
    done = run_command("forward", "name:blue", spec)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_without_a_rule_it_fails_before_the_first_connection(daemon: Daemon, server: socket.socket) -> None:
    line = one_line(run_command("forward", "name:blue", f"0:{port_of(server)}", uid=BOB, address=daemon.address), 1)
    assert "permission denied" in line
    assert "inet:stream" in line


def test_a_target_and_a_broker_that_were_restarted_are_found_again(daemon: Daemon, blue: Path) -> None:
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["name:*"], sockets=["inet:stream"])
    with listen_inside("blue") as old, Forward(daemon, f"0:{port_of(old)}") as forward:
        with forward.connect() as client, accepted(old) as inside:
            ask(client, inside)
        subprocess.run(["ip", "netns", "del", "blue"], check=True)
        # The connection may be reset before connect() returns.
        with pytest.raises(ConnectionResetError), forward.connect() as client:
            client.recv(1)
        subprocess.run(["ip", "netns", "add", "blue"], check=True)
        with listen_inside("blue", port=port_of(old)) as new:
            with forward.connect() as client, accepted(new) as inside:
                ask(client, inside)
            daemon.stop()
            daemon.start()
            with forward.connect() as client, accepted(new) as inside:
                ask(client, inside)


def test_a_slow_reader_blocks_the_writer_and_takes_no_memory(forward: Forward, server: socket.socket) -> None:
    piece = os.urandom(1 << 20)
    with forward.connect() as client, accepted(server) as inside:
        ask(client, inside)
        before = forward.memory()
        client.settimeout(0.2)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 200e6:
                sent += client.send(piece[sent % len(piece) :])
        assert sent < 200e6, "the writer was never blocked"
        assert forward.memory() - before < 20e6
        client.shutdown(socket.SHUT_WR)
        got = read_all(inside)
    assert len(got) == sent
    assert got == (piece * (sent // len(piece) + 1))[:sent]


def test_a_reset_on_one_side_resets_the_other(forward: Forward, server: socket.socket) -> None:
    for _ in range(5):
        with forward.connect() as client, accepted(server) as inside:
            ask(client, inside)
            break_off(inside)
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        with forward.connect() as client, accepted(server) as inside:
            ask(client, inside)
            break_off(client)
            with pytest.raises(ConnectionResetError):
                inside.recv(1)
    assert forward.end() == (0, [])


def test_what_was_written_is_sent_at_once(forward: Forward, server: socket.socket) -> None:
    with forward.connect() as client, accepted(server) as inside:
        for sock in (client, inside):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fastest, rounds = math.inf, 0
        # On a busy machine, it may take many rounds until one is not disturbed.
        while rounds < 30 or (fastest >= 0.03 and rounds < 1000):
            rounds += 1
            start = time.monotonic()
            client.sendall(b"a question ")
            time.sleep(0.001)
            client.sendall(b"in two parts")
            while not inside.recv(100).endswith(b"parts"):
                pass
            inside.sendall(b"!")
            assert client.recv(1) == b"!"
            fastest = min(fastest, time.monotonic() - start)
        # If the second part waited until the first is acknowledged, each round would take 0.04 seconds.
        assert fastest < 0.03


def test_an_urgent_byte_is_relayed_like_others(forward: Forward, server: socket.socket) -> None:
    with forward.connect() as client, accepted(server) as inside:
        inside.sendall(b"before ")
        inside.send(b"!", socket.MSG_OOB)
        inside.sendall(b" after")
        inside.close()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        assert read_all(client).replace(b"!", b"") == b"before  after"
    assert forward.end() == (0, [])


def receive(sock: socket.socket, count: int) -> bytes:
    """Receive `count` bytes, which may come in pieces."""
    data = b""
    while len(data) < count and (piece := sock.recv(count - len(data))):
        data += piece
    return data


def test_a_thousand_connections_at_once_each_get_their_own_bytes(many_files: None, forward: Forward, server: socket.socket) -> None:
    with contextlib.ExitStack() as open_:
        clients = [open_.enter_context(forward.connect()) for _ in range(_MANY)]
        for number, client in enumerate(clients):
            client.sendall(b"%04d" % number * 250)
        for inside in [open_.enter_context(accepted(server)) for _ in clients]:
            inside.sendall(receive(inside, 1000)[::-1])
        for number, client in enumerate(clients):
            assert receive(client, 1000) == (b"%04d" % number * 250)[::-1]
    assert forward.end() == (0, [])


def test_connections_that_have_ended_leave_no_files(many_files: None, forward: Forward, server: socket.socket) -> None:
    before = forward.files("socket:")
    piece = bytes(1 << 20)
    with contextlib.ExitStack() as open_:
        for _ in range(200):
            # Nobody reads, so each connection blocks and needs a pipe.
            client = open_.enter_context(forward.connect())
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.send(piece)
            open_.enter_context(accepted(server))
        assert forward.files("socket:") == before + 400
    eventually(lambda: forward.files("socket:") == before, "no socket is left")
    eventually(lambda: forward.files("pipe:") <= 70, "few pipes are left")


def test_without_free_descriptors_it_resets_connections_and_serves_later_ones(daemon: Daemon, server: socket.socket) -> None:
    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    with Forward(daemon, f"0:{port_of(server)}", preexec_fn=few_files) as forward:
        before = forward.files("socket:")
        with contextlib.ExitStack() as open_:
            for _ in range(60):
                open_.enter_context(forward.connect())
        server.settimeout(0.2 * SLOWNESS)

        def all_closed() -> bool:
            with contextlib.suppress(TimeoutError):
                while True:
                    accepted(server).close()
            # It also drops its connection to the broker when a descriptor is lost, and connects again with the next call.
            return forward.files("socket:") <= before

        eventually(all_closed, "no socket is left")
        server.settimeout(PATIENCE)
        with forward.connect() as client, accepted(server) as inside:
            ask(client, inside)
        code, printed = forward.end()
    assert code == 0
    assert printed
    assert all(line.endswith(("Too many open files", "too many are open here")) for line in printed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_and_breaks_what_is_open(forward: Forward, server: socket.socket, number: int) -> None:
    with forward.connect() as client, accepted(server) as inside:
        ask(client, inside)
        # It does not wait for the connections, which never end.
        assert forward.end(number) == (0, [])
        for sock in (client, inside):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_while_it_waits_for_a_silent_broker(folder: Path, number: int) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(folder / "socket"))
        silent.listen()
        silent.settimeout(PATIENCE)
        process = start_command("forward", "--timeout=600", "name:blue", "0:80", address=f"unix:{folder}/socket")
        try:
            with accepted(silent) as connection:
                assert connection.recv(1)
                process.send_signal(number)
                assert process.communicate(timeout=PATIENCE) == (b"", b"")
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 0
