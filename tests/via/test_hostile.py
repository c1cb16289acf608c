"""Commands that misbehave, and brokers and targets that go away meanwhile.  No socket is ever one of the host's network."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import nsbroker.via.trio
from nsbroker import via
from nsbroker.errors import ProtocolError
from nsbroker.linux import pidfd, socket_options
from tests.client.every_client import impostor_elsewhere
from tests.client.test_opened_files import send_files
from tests.snapshot import Snapshot
from tests.via.conftest import ADDRESS, PAGE, Network, need
from tests.world import LINUX, PATIENCE, SLOWNESS, eventually

pytestmark = pytest.mark.root

# `make soak-via` asks for many more.
SOCKETS = os.environ.get("SOCKETS") or "2000"
MANY = """
import socket, sys
for number in range(int(sys.argv[1])):
    with socket.socket() as sock:
        sock.bind(("10.9.8.7", 0))
print("done", flush=True)
"""
STORM = """
import os, signal, socket, sys, threading, time
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.siginterrupt(signal.SIGUSR1, False)
over = threading.Event()
made = 0
least = int(sys.argv[1])
def shoot():
    shots = 0
    while shots < 2000 or made <= least:
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.0003)
        shots += 1
    over.set()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
thread = threading.Thread(target=shoot)
thread.start()
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
while not over.is_set():
    with socket.socket() as sock:
        sock.bind(("10.9.8.7", 0))
        made += 1
thread.join()
print(made > least, sorted(os.listdir("/proc/self/fd")))
"""


def popen(network: Network, *command: str, **options: Any) -> via.Popen:
    return via.Popen(list(command), "name:blue", address=network.daemon.address, text=True, **options)


def run(network: Network, *command: str) -> "subprocess.CompletedProcess[str]":
    return via.run(list(command), "name:blue", address=network.daemon.address, capture_output=True, text=True, timeout=2 * PATIENCE)


def memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_many_sockets_leave_nothing_behind(network: Network) -> None:
    code = 2 * (MANY + "sys.stdin.readline()\n")
    with popen(network, sys.executable, "-c", code, SOCKETS, stdin=-1, stdout=-1) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "done\n"
        # The last socket is closed here a moment after the program has it.
        before, used = Snapshot.settled(os.getpid(), SLOWNESS), memory()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
        eventually(lambda: Snapshot.of(os.getpid()) == before, "descriptors and threads are as before")
        assert memory() - used < 2**20
        process.stdin.write("\n")
    assert process.join(PATIENCE)


def test_every_socket_is_inside(network: Network) -> None:
    """Root copies each socket of the program and asks the kernel where it is."""
    code = """
import socket, sys
kinds = [(2, 1), (2, 2), (10, 1), (10, 2), (16, 3), (17, 2), (17, 3), (2, 3)]
made = [socket.socket(family, kind, 1 if (family, kind) == (2, 3) else 0) for family, kind in kinds]
print(*(sock.fileno() for sock in made), flush=True)
sys.stdin.readline()
"""
    with network.start(sys.executable, "-c", code) as process:
        assert process.stdout
        numbers = process.stdout.readline().split()
        assert len(numbers) == 8, process.stderr
        [child] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        pinned = os.pidfd_open(int(child))
        for number in numbers:
            copy = pidfd.copy_descriptor(pinned, int(number))
            place = socket_options.network_namespace(copy)
            assert os.fstat(place).st_ino == network.inode
            os.close(place)
            os.close(copy)
        os.close(pinned)
        process.communicate(b"\n", timeout=PATIENCE)


def test_signals_interrupt_nothing_and_leak_nothing(network: Network) -> None:
    # Before Linux 5.19, each signal makes the program ask again.
    least = 100 if LINUX >= (5, 19) else 0
    done = run(network, sys.executable, "-c", STORM, str(least))
    assert (done.returncode, done.stdout) == (0, "True ['0', '1', '2', '3']\n"), done


def test_commands_that_are_killed_while_they_wait(network: Network) -> None:
    need("busybox")
    script = f"""
for i in $(seq 50); do
    busybox wget -qO- {network.url} >/dev/null 2>&1 & pid=$!
    kill -KILL $pid
done
wait
busybox wget -qO- {network.url}
"""
    done = run(network, "sh", "-c", script)
    assert done.stdout.encode() == PAGE, done


def test_a_command_that_is_stopped_while_it_waits_goes_on(network: Network) -> None:
    with popen(network, sys.executable, "-c", MANY, "300", stdout=-1) as process:
        for _ in range(20):
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.005)
            process.send_signal(signal.SIGCONT)
            time.sleep(0.005)
        assert process.communicate(timeout=2 * PATIENCE)[0] == "done\n"
        assert process.returncode == 0


def test_a_command_that_closes_all_descriptors_gets_the_lowest(network: Network) -> None:
    code = "import os, socket; os.closerange(0, 100); os._exit(40 + socket.socket().fileno())"
    assert run(network, sys.executable, "-c", code).returncode == 40


def test_a_command_with_a_seccomp_filter_of_its_own(network: Network) -> None:
    prefix = ["tests/as-linux", "6.4"]
    assert run(network, *prefix, sys.executable, "-c", MANY, "3").stdout == "done\n"


def test_a_daemon_outlives_the_command_and_still_gets_sockets(network: Network, tmp_path: Path) -> None:
    code = """
import os, socket, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while not os.path.exists(sys.argv[1] + "/go"):
            time.sleep(0.01)
        sock = socket.socket()
        sock.bind(("10.9.8.7", 0))
        open(sys.argv[1] + "/result", "w").write(sock.getsockname()[0])
    os._exit(0)
os.wait()
"""
    with popen(network, sys.executable, "-c", code, str(tmp_path)) as process:
        assert process.wait(PATIENCE) == 0
        assert not process.join(0.1)
        (tmp_path / "go").touch()
        assert process.join(PATIENCE)
    assert (tmp_path / "result").read_text() == ADDRESS


def test_the_broker_is_restarted_meanwhile(network: Network) -> None:
    code = MANY + "sys.stdin.readline()\n" + MANY
    with popen(network, sys.executable, "-c", code, "5", stdin=-1, stdout=-1) as process:
        assert process.stdout
        assert process.stdout.readline() == "done\n"
        network.daemon.stop()
        network.daemon.start()
        assert process.communicate("\n", timeout=PATIENCE)[0] == "done\n"
        assert process.returncode == 0


def test_the_broker_restarts_again_and_again_and_no_socket_is_lost(network: Network) -> None:
    with popen(network, sys.executable, "-c", MANY, "600", stdout=-1) as process:
        while process.poll() is None:
            network.daemon.stop(signal.SIGKILL)
            network.daemon.start()
            time.sleep(0.2)
        # While no broker listens, socket(2) fails with ENETDOWN: an error, but never a socket of the host's.
        assert process.communicate()[0] in ("done\n", "")


def test_the_broker_is_gone(network: Network, capfd: pytest.CaptureFixture[str]) -> None:
    code = """
import socket, sys
for _ in range(3):
    sys.stdin.readline()
    try:
        socket.socket()
        print("made", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""
    with popen(network, sys.executable, "-c", code, stdin=-1, stdout=-1) as process:
        assert process.stdin
        assert process.stdout
        answers = []
        for step in range(3):
            if step == 1:
                network.daemon.stop()
            process.stdin.write("\n")
            process.stdin.flush()
            answers.append(process.stdout.readline())
        network.daemon.start()
    assert answers == ["made\n", "Network is down\n", "Network is down\n"]
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("nsbroker: no broker at ")


async def test_a_broker_that_sends_a_file_without_end_starts_nothing() -> None:
    """The real broker sends at most 65536 bytes, so a fake one sends more."""
    with impostor_elsewhere(send_files(2**40)) as address:
        with pytest.raises(ProtocolError, match="more than 65536 bytes"):
            via.run(["true"], "self", address=address)
        with pytest.raises(ProtocolError, match="more than 65536 bytes"):
            async with nsbroker.via.trio.open_process(["true"], "self", address=address):
                pass


def test_the_target_ends_and_old_sockets_stay(network: Network) -> None:
    code = f"""
import socket, sys
old = socket.create_connection(("127.0.0.1", {network.port}))
print("connected", flush=True)
sys.stdin.readline()
try:
    socket.socket()
except OSError as error:
    print(error.strerror, flush=True)
old.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
print(old.makefile().read().endswith("from inside\\n"), flush=True)
"""
    with popen(network, sys.executable, "-c", code, stdin=-1, stdout=-1, stderr=-1) as process:
        assert process.stdout
        assert process.stdout.readline() == "connected\n"
        subprocess.run(["ip", "netns", "del", "blue"], check=True)
        output, _ = process.communicate("\n", timeout=PATIENCE)
    subprocess.run(["ip", "netns", "add", "blue"], check=True)
    assert output == "Network is down\nTrue\n"


def test_the_policy_changes_meanwhile(network: Network) -> None:
    code = MANY + "sys.stdin.readline()\n" + MANY
    with network.start(sys.executable, "-c", code, "1") as process:
        assert process.stdout
        assert process.stdout.readline() == b"done\n"
        network.daemon.allow("nobody", who=["user:65534"], targets=["name:blue"], sockets=["netlink:raw"])
        _, errors = process.communicate(b"\n", timeout=PATIENCE)
    assert b"PermissionError: [Errno 13] Permission denied" in errors
    assert b"nsbroker: open a socket inet:stream in name:blue: permission denied" in errors


def test_a_thousand_children_and_threads(network: Network) -> None:
    code = """
import os, socket, threading
def make():
    for _ in range(10):
        with socket.socket() as sock:
            sock.bind(("10.9.8.7", 0))
for _ in range(10):
    children = []
    for _ in range(10):
        child = os.fork()
        if child == 0:
            threads = [threading.Thread(target=make) for _ in range(5)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            os._exit(0)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
print("done")
"""
    before = threading.active_count()
    assert run(network, sys.executable, "-c", code).stdout == "done\n"
    eventually(lambda: threading.active_count() == before, "the threads of the supervisor end")
