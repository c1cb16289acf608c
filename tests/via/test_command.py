"""What `nsbroker via` does around the command: signals, descriptors, exit codes, and what it says before anything runs."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import one_line
from tests.terminal import REPORTER, Terminal
from tests.via.conftest import Network
from tests.world import NOBODY, PATIENCE, Daemon, run_command

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("command", "code"),
    [(["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -KILL $$"], 137), (["true"], 0)],
    ids=["exit", "signal", "success"],
)
def test_the_exit_code_is_the_commands_own(network: Network, command: list[str], code: int) -> None:
    done = network.via(*command)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_a_command_that_cannot_be_run_is_one_line(network: Network) -> None:
    assert "cannot run 'nowhere': No such file" in one_line(network.via("nowhere"), 127)
    assert "cannot run '/nowhere': No such file" in one_line(network.via("/nowhere"), 127)
    plain = Path("/run/plain")
    plain.write_text("echo it ran\n")
    assert "cannot run '/run/plain': Permission denied" in one_line(network.via(str(plain)), 126)
    plain.chmod(0o755)
    assert "cannot run '/run/plain': Exec format error" in one_line(network.via(str(plain)), 126)
    plain.unlink()
    assert "cannot run '/etc': Permission denied" in one_line(network.via("/etc"), 126)


def test_without_a_command_or_with_a_wrong_target_it_is_wrong_usage() -> None:
    assert "COMMAND is missing" in one_line(run_command("via", "name:blue"), 2)
    assert "COMMAND is missing" in one_line(run_command("via", "name:blue", "--"), 2)
    assert "target" in one_line(run_command("via", "blue/", "--", "true"), 2)


def test_without_a_broker_nothing_runs(tmp_path: Path) -> None:
    done = run_command("via", "name:blue", "--", "touch", str(tmp_path / "ran"), address="unix:/nowhere")
    assert "no broker at /nowhere" in one_line(done, 1)
    assert not (tmp_path / "ran").exists()


def test_a_second_supervisor_is_one_line_before_anything_runs(network: Network) -> None:
    done = network.via("touch", "/run/ran", prefix=[sys.executable, "-m", "nsbroker", "via", "name:blue", "--"])
    assert "is this inside another `nsbroker via`?" in one_line(done, 1)
    assert not Path("/run/ran").exists()


@pytest.mark.parametrize("version", ["5.10", "5.13"])
def test_an_old_kernel_is_one_line_before_anything_runs(daemon: Daemon, version: str) -> None:
    command = ["tests/as-linux", version, sys.executable, "-m", "nsbroker", "via", "name:blue", "--", "touch", "/run/ran"]
    environment = {**os.environ, "NSBROKER_ADDRESS": daemon.address}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "this needs Linux 5.14 or later" in one_line(done, 1)
    assert not Path("/run/ran").exists()


@pytest.fixture
def setuid_true() -> Iterator[str]:
    """A copy of true(1) that is setuid root, where NOBODY may run it."""
    path = shutil.copy("/bin/true", "/run/setuid-true")
    os.chmod(path, 0o4755)
    yield path
    os.unlink(path)


def test_a_setuid_command_runs_without_its_privilege_and_that_is_said(network: Network, setuid_true: str) -> None:
    done = network.via(setuid_true)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        f"nsbroker: {setuid_true} runs without the privilege of its setuid bit: a program under `nsbroker via` cannot gain any"
    ]
    subprocess.run(["chmod", "0755", setuid_true], check=True)
    assert network.via(setuid_true).stderr == ""


def test_standard_input_and_other_descriptors_are_inherited_and_no_others(network: Network) -> None:
    read, write = os.pipe()
    os.write(write, b"more")
    high = fcntl.fcntl(read, fcntl.F_DUPFD_CLOEXEC, 50)
    code = f"import os; print(sorted(map(int, os.listdir('/proc/self/fd')))); print(os.read(0, 9), os.read({high}, 9))"
    try:
        with network.start(sys.executable, "-c", code, pass_fds=[high]) as process:
            output, errors = process.communicate(b"zero", timeout=PATIENCE)
    finally:
        for fd in (read, write, high):
            os.close(fd)
    # The number 3 is the folder itself.
    assert output.decode().splitlines() == [f"[0, 1, 2, 3, {high}]", "b'zero' b'more'"], errors


def test_signals_that_others_send_are_passed_on(network: Network) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        with network.start(sys.executable, "-c", REPORTER) as process:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(number)
            assert process.stdout.read().decode().split() == [number.name]
            assert process.wait(PATIENCE) == 5


def test_the_terminal_belongs_to_the_command(network: Network) -> None:
    """Ctrl-C reaches the command once, and it decides what happens."""
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", sys.executable, "-m", "nsbroker"]
    command += ["via", "name:blue", "--", sys.executable, "-c", REPORTER]
    with Terminal(command, {**os.environ, "NSBROKER_ADDRESS": network.daemon.address}) as terminal:
        terminal.wait_for(b"ready\r\n")
        terminal.type(b"\x03")
        assert (terminal.wait(), terminal.shown.split()) == (5, [b"ready", b"^CSIGINT"])


def test_a_signal_ends_it_when_only_a_daemon_is_left(network: Network) -> None:
    with network.start("sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!; exit 3") as process:
        assert process.stdout
        left = int(process.stdout.readline())
        time.sleep(0.2)
        assert process.poll() is None
        os.kill(left, signal.SIGKILL)
        assert process.wait(PATIENCE) == 3


def test_a_process_in_a_network_of_its_own_gets_its_own_kernels_answer(network: Network) -> None:
    done = network.via("unshare", "--map-root-user", "--net", "ip", "-br", "addr")
    if "Operation not permitted" in done.stderr:
        pytest.skip("users may not create user namespaces here: no process made a network of its own")
    assert done.stdout.split() == ["lo", "DOWN"], done


def test_in_a_network_of_its_own_a_thread_does_not_get_the_sockets_of_others(network: Network) -> None:
    """One thread moves, and the other stays: each gets sockets of its own network."""
    code = """
import ctypes, os, socket, threading
libc = ctypes.CDLL(None, use_errno=True)
def cookie():
    with socket.socket() as sock:
        return sock.getsockopt(1, 71, 8)
def move():
    if libc.unshare(0x40000000): raise OSError(ctypes.get_errno())
    found.append(cookie())
found = [cookie()]
thread = threading.Thread(target=move)
thread.start(); thread.join()
found.append(cookie())
with socket.socket(socket.AF_UNIX) as sock:
    found.append(sock.getsockopt(1, 71, 8))
print(len(set(found)), found[0] == found[2])
"""
    network.daemon.allow("root", who=["user:0"], targets=["name:blue"], sockets=["inet:stream"])
    done = network.via(sys.executable, "-c", code, uid=0)
    assert done.stdout == "3 True\n", done


def test_the_options_of_the_command_itself(daemon: Daemon) -> None:
    help_text = run_command("via", "--help").stdout
    assert "usage: nsbroker via TARGET [--timeout SECONDS] -- COMMAND [ARGUMENT]..." in help_text
    assert "not a sandbox" in help_text


def test_nothing_is_left_when_the_supervisor_is_killed(network: Network) -> None:
    """The command goes on, and its sockets fail; they are never those of the host."""
    code = """
import socket, sys
socket.socket().close()
print("first", flush=True)
sys.stdin.readline()
try:
    socket.socket()
except OSError as error:
    print(error.strerror, flush=True)
"""
    with network.start(sys.executable, "-c", code) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == b"first\n"
        process.kill()
        process.wait()
        process.stdin.write(b"go on\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"Function not implemented\n"
