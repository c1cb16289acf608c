"""What `nsbroker forward` tells programs and people, and Unix sockets, for a user."""

import json
import os
import socket
import stat
from pathlib import Path

import pytest

from tests.cli.conftest import accepted, one_line, port_of
from tests.cli.forwarding.running import Forward, ask
from tests.world import ALICE, PATIENCE, Daemon, eventually, run_command

pytestmark = pytest.mark.root


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    client.connect(str(path))
    return client


def test_programs_get_events(daemon: Daemon, server: socket.socket) -> None:
    port = port_of(server)
    with Forward(daemon, f"0:{port}", "--json", lines=1) as forward:
        listening = json.loads(forward.printed[0])
        listen, to = listening["listen"], f"name:blue port {port}"
        assert listening == {"event": "listening", "listen": listen, "to": to, "protocol": "tcp"}
        address, _, local = listen.rpartition(":")
        with socket.create_connection((address, int(local)), timeout=PATIENCE) as client, accepted(server) as inside:
            assert json.loads(forward.line()) == {"event": "opened", "connection": 1, "listen": listen, "to": to}
            ask(client, inside)
        assert json.loads(forward.line()) == {"event": "closed", "connection": 1, "sent": 4, "received": 4}
        server.close()
        with socket.create_connection((address, int(local)), timeout=PATIENCE):
            assert json.loads(forward.line()) == {"event": "failed", "to": to, "error": "Connection refused"}
        assert forward.end() == (0, [])


@pytest.mark.parametrize("spec", ["0:{port}", "0:{port}/udp"])
def test_it_ends_quietly_when_nobody_reads_its_events(daemon: Daemon, server: socket.socket, spec: str) -> None:
    sockets = ["inet:stream", "inet:dgram"]
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["name:blue"], sockets=sockets)
    with Forward(daemon, spec.format(port=port_of(server)), "--json", lines=1) as forward:
        host, _, port = json.loads(forward.printed[0])["listen"].rpartition(":")
        forward.leave()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if "udp" in spec else socket.SOCK_STREAM) as client:
            client.connect((host, int(port)))
            client.send(b"x")
            assert forward.wait() == (1, [])


def test_scripts_are_told_when_it_listens(
    daemon: Daemon, server: socket.socket, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(folder / "notify"))
        (folder / "notify").chmod(0o666)
        manager.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        arguments = (f"0:{port_of(server)}", f"--ready-fd={write}")
        with Forward(daemon, *arguments, lines=1, pass_fds=(write,)):
            os.close(write)
            assert os.read(read, 10) == b"\n"
            assert os.read(read, 10) == b""
            assert manager.recv(100) == b"READY=1"
    os.close(read)


def test_a_unix_socket_is_for_its_user_alone_and_is_removed(daemon: Daemon, server: socket.socket, folder: Path) -> None:
    path = folder / "here.sock"
    with Forward(daemon, f"unix:{path}:{port_of(server)}") as forward:
        assert forward.printed == [f"unix:{path} leads to name:blue port {port_of(server)}"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with connect(path) as client, accepted(server) as inside:
            ask(client, inside)
        assert forward.end() == (0, [])
    assert not path.exists()


def test_a_unix_socket_that_nobody_listens_on_is_replaced_and_one_in_use_is_not(
    daemon: Daemon, server: socket.socket, folder: Path
) -> None:
    path = folder / "here.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    os.chown(path, ALICE, ALICE)
    with Forward(daemon, f"unix:{path}:{port_of(server)}"):
        done = run_command("forward", "name:blue", f"unix:{path}:{port_of(server)}", uid=ALICE, address=daemon.address)
        assert one_line(done, 1) == f"nsbroker: cannot listen on unix:{path}: Address already in use"
        # The other command connected, to find out that this one listens.
        accepted(server).close()
        with connect(path) as client, accepted(server) as inside:
            ask(client, inside)


def test_a_file_that_is_no_socket_is_left_alone(daemon: Daemon, server: socket.socket, folder: Path) -> None:
    path = folder / "file"
    path.write_text("precious")
    os.chown(path, ALICE, ALICE)
    done = run_command("forward", "name:blue", f"unix:{path}:80", uid=ALICE, address=daemon.address)
    assert one_line(done, 1) == f"nsbroker: cannot listen on unix:{path}: Address already in use"
    assert path.read_text() == "precious"


def test_a_socket_of_somebody_else_that_took_its_place_is_left_alone(daemon: Daemon, server: socket.socket, folder: Path) -> None:
    path = folder / "here.sock"
    with Forward(daemon, f"unix:{path}:{port_of(server)}") as forward:
        path.unlink()
        path.write_text("mine now")
        assert forward.end() == (0, [])
    assert path.read_text() == "mine now"


def test_a_file_with_the_name_of_an_abstract_socket_is_left_alone(daemon: Daemon, server: socket.socket, folder: Path) -> None:
    name = f"@nsbroker-{os.getpid()}"
    (folder / name).write_text("precious")
    with Forward(daemon, f"unix:{name}:{port_of(server)}", cwd=folder) as forward:
        assert forward.end() == (0, [])
    assert (folder / name).read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "write what to forward"),
        (("80:unix:/run/app.sock",), "use unix:@NAME inside"),
        (("80", "--ready-fd=77"), "descriptor 77 is not open"),
        (("80", "--ready-fd=x"), "not the number of a descriptor"),
        *(
            (("80", f"--ready-fd={fd}"), f"descriptor {fd} is standard input, output or error, and must stay open")
            for fd in ("0", "1", "02")
        ),
        (("--socks=80/udp",), "is not where to listen"),
        (("--reverse=x",), "is not what to forward"),
    ],
)
def test_wrong_usage_is_one_line(arguments: tuple[str, ...], words: str) -> None:
    assert words in one_line(run_command("forward", "name:blue", *arguments), 2)


def test_its_files_are_closed_when_clients_come_and_go(daemon: Daemon, server: socket.socket, folder: Path) -> None:
    path = folder / "here.sock"
    with Forward(daemon, f"unix:{path}:{port_of(server)}") as forward:
        before = forward.files("socket:")
        for _ in range(20):
            with connect(path) as client, accepted(server) as inside:
                ask(client, inside)
        eventually(lambda: forward.files("socket:") == before, "no socket is left")
