"""`nsbroker connect`: standard input and output inside a real network."""

import hashlib
import math
import os
import select
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import IO

import pytest

from nsbroker.namespace import Namespace
from tests.cli.conftest import accepted, break_off, one_line, port_of, read_all
from tests.world import ALICE, BOB, PATIENCE, Daemon, Sleeper, eventually, run_command, start_command

pytestmark = pytest.mark.root


def connect(daemon: Daemon, server: socket.socket) -> subprocess.Popen[bytes]:
    """Start the command, with the address of `server`."""
    return start_command("connect", "name:blue", "127.0.0.1", str(port_of(server)), uid=ALICE, address=daemon.address)


def test_standard_input_and_output_are_the_connection(daemon: Daemon, server: socket.socket) -> None:
    with connect(daemon, server) as command, accepted(server) as inside:
        assert command.stdin
        assert command.stdout
        for _ in range(3):
            os.write(command.stdin.fileno(), b"ping")
            assert inside.recv(5) == b"ping"
            inside.sendall(b"pong")
            assert os.read(command.stdout.fileno(), 5) == b"pong"
        command.stdin.close()
        assert inside.recv(1) == b""
        inside.sendall(b"the answer to all that")
        inside.close()
        assert command.stdout.read() == b"the answer to all that"
        assert command.wait(PATIENCE) == 0


def test_it_ends_when_the_server_does(daemon: Daemon, server: socket.socket) -> None:
    with connect(daemon, server) as command:
        with accepted(server) as inside:
            inside.sendall(b"goodbye")
        # Its standard input is still open.
        assert command.wait(PATIENCE) == 0
        assert command.stdout
        assert command.stdout.read() == b"goodbye"


def test_what_was_written_is_sent_at_once(daemon: Daemon, server: socket.socket) -> None:
    with connect(daemon, server) as command, accepted(server) as inside:
        assert command.stdin
        fastest, rounds = math.inf, 0
        # On a busy machine, it may take many rounds until one is not disturbed.
        while rounds < 30 or (fastest >= 0.03 and rounds < 1000):
            rounds += 1
            start = time.monotonic()
            os.write(command.stdin.fileno(), b"a question ")
            time.sleep(0.001)
            os.write(command.stdin.fileno(), b"in two parts")
            while not inside.recv(100).endswith(b"parts"):
                pass
            inside.sendall(b"!")
            fastest = min(fastest, time.monotonic() - start)
        # If the second part waited until the first is acknowledged, each round would take 0.04 seconds.
        assert fastest < 0.03


def test_bytes_that_an_echo_server_returns_are_unchanged(daemon: Daemon, server: socket.socket) -> None:
    data = os.urandom(32 << 20)

    def echo() -> None:
        with accepted(server) as inside:
            inside.sendall(read_all(inside))

    thread = threading.Thread(target=echo)
    thread.start()
    with connect(daemon, server) as command:
        out, errors = command.communicate(data, timeout=PATIENCE)
    thread.join()
    assert (command.returncode, errors) == (0, b"")
    assert hashlib.sha256(out).digest() == hashlib.sha256(data).digest()


def test_non_blocking_pipes_are_waited_for(daemon: Daemon, server: socket.socket) -> None:
    """ssh and others make the pipes that they share with a command non-blocking."""
    data = os.urandom(1 << 20)
    theirs, ours = os.pipe()
    read, write = os.pipe()
    for fd in (theirs, write):
        os.set_blocking(fd, False)
    command = ["connect", "name:blue", "127.0.0.1", str(port_of(server))]
    process = start_command(*command, uid=ALICE, address=daemon.address, stdin=theirs, stdout=write)
    os.close(theirs)
    os.close(write)
    with process, accepted(server) as inside, open(ours, "wb", 0) as stdin, open(read, "rb") as stdout:
        # By now it has tried to read: that must not count as the end of the input.
        inside.settimeout(0.5)
        with pytest.raises(TimeoutError):
            inside.recv(1)
        inside.settimeout(PATIENCE)
        stdin.write(b"ping")
        assert inside.recv(5) == b"ping"
        sender = threading.Thread(target=inside.sendall, args=(data,))
        sender.start()
        # By now the pipe is full.
        time.sleep(0.5)
        received = stdout.read(len(data))
        sender.join()
        inside.shutdown(socket.SHUT_WR)
        assert process.stderr
        assert (process.wait(PATIENCE), process.stderr.read()) == (0, b"")
    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


def test_a_broken_connection_is_a_failure(daemon: Daemon, server: socket.socket) -> None:
    with connect(daemon, server) as command:
        break_off(accepted(server))
        _, errors = command.communicate(timeout=PATIENCE)
    assert command.returncode == 1
    assert errors.decode() == f"nsbroker: 127.0.0.1 port {port_of(server)} in name:blue broke the connection\n"


def test_a_connection_that_breaks_while_input_is_sent_is_a_failure(daemon: Daemon, server: socket.socket) -> None:
    with connect(daemon, server) as command, accepted(server) as inside:
        assert command.stdin
        # Nobody reads standard output, so the main thread waits for room in the pipe, and only the sending thread meets the reset.
        inside.sendall(bytes(1 << 18))
        eventually(lambda: threads(command) == 2, "the sending thread runs")
        os.set_blocking(command.stdin.fileno(), False)
        eventually(lambda: not room_for_input(command.stdin), "the sending thread is blocked")
        break_off(inside)
        eventually(lambda: threads(command) == 1, "the sending thread has met the reset")
        _, errors = command.communicate(timeout=PATIENCE)
    assert command.returncode == 1
    assert errors.decode() == f"nsbroker: 127.0.0.1 port {port_of(server)} in name:blue broke the connection\n"


def room_for_input(pipe: IO[bytes] | None) -> bool:
    """Write to a non-blocking pipe until it is full, and return whether something could be written."""
    assert pipe
    try:
        os.write(pipe.fileno(), bytes(1 << 16))
    except BlockingIOError:
        time.sleep(0.2)
        return bool(select.select([], [pipe], [], 0)[1])
    return True


def threads(process: subprocess.Popen[bytes]) -> int:
    """Return how many threads a process has."""
    return len(os.listdir(f"/proc/{process.pid}/task"))


def test_a_port_where_nobody_listens_is_one_line(daemon: Daemon, server: socket.socket) -> None:
    port = str(port_of(server))
    server.close()
    for host, reason in (("127.0.0.1", "Connection refused"), ("::1", "Connection refused"), ("a..b", "label")):
        command = ["connect", "--resolve", "here", "name:blue", host, port]
        line = one_line(run_command(*command, uid=ALICE, address=daemon.address), 1)
        assert f"cannot connect to {host} port {port} in name:blue" in line
        assert reason in line


def test_a_name_is_looked_up_inside_or_here(daemon: Daemon) -> None:
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["pid:*"], sockets=["inet:stream"], files=["hosts"])
    with Sleeper(unshare="--net --mount --propagation private") as process, Namespace.from_pid(process.pid, "net") as ns:
        pid = str(process.pid)
        subprocess.run(["nsenter", "--net", "-t", pid, "ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["nsenter", "--mount", "-t", pid, "mount", "-t", "tmpfs", "-o", "mode=755", "etc", "/etc"], check=True)
        Path(f"/proc/{pid}/root/etc/hosts").write_text("127.0.0.9 web.test\n")
        with ns.call(socket.create_server, ("127.0.0.9", 0)) as listener:
            command = ["connect", f"pid:{pid}", "web.test", str(port_of(listener))]
            with start_command(*command, uid=ALICE, address=daemon.address) as process_inside:
                with accepted(listener) as inside:
                    inside.sendall(b"found")
                assert process_inside.communicate(timeout=PATIENCE) == (b"found", b"")
            line = one_line(run_command(*command, "--resolve", "here", uid=ALICE, address=daemon.address), 1)
            assert f"cannot connect to web.test port {port_of(listener)}" in line
            # A name that is not in the file takes the permission to ask the name servers.
            command[2] = "other.test"
            line = one_line(run_command(*command, uid=ALICE, address=daemon.address), 1)
            assert line.startswith(f"nsbroker: cannot look up 'other.test' as pid:{pid} does: ")
            assert "lets you have the file resolv.conf there" in line
            assert "With `--resolve here`" in line


def test_without_a_rule_it_does_not_connect(daemon: Daemon, server: socket.socket) -> None:
    line = one_line(run_command("connect", "name:blue", "127.0.0.1", str(port_of(server)), uid=BOB, address=daemon.address), 1)
    assert "permission denied" in line


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", "٣"])
def test_a_wrong_port_is_wrong_usage(port: str) -> None:
    done = run_command("connect", "name:blue", "127.0.0.1", port)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
