"""`nsbroker.via.run` and `Popen` in Python."""

import ctypes
import errno
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from nsbroker import via
from nsbroker.errors import CommandFailed, ConnectionFailed, InvalidTarget
from nsbroker.linux.seccomp_filter import architecture
from tests.snapshot import Snapshot
from tests.via.conftest import ADDRESS, Network
from tests.world import PATIENCE, as_user

pytestmark = pytest.mark.root

BIND = f"import socket; sock = socket.socket(); sock.bind(({ADDRESS!r}, 0)); print(sock.getsockname()[0])"


def test_run_returns_what_the_program_wrote(network: Network) -> None:
    done = via.run(
        [sys.executable, "-c", f"print(input()); {BIND}"],
        "name:blue",
        address=network.daemon.address,
        input="hello\n",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"hello\n{ADDRESS}\n", "")


def test_run_raises_as_subprocess_does(network: Network, tmp_path: Path) -> None:
    address = network.daemon.address
    with pytest.raises(subprocess.CalledProcessError, match="status 3"):
        via.run("exit 3", "name:blue", address=address, shell=True, check=True)
    with pytest.raises(subprocess.TimeoutExpired):
        via.run(["sleep", "60"], "name:blue", address=address, timeout=0.1)
    with pytest.raises(FileNotFoundError):
        via.run(["/nowhere"], "name:blue", address=address)
    with pytest.raises(PermissionError):
        via.run([str(tmp_path)], "name:blue", address=address)
    with pytest.raises(InvalidTarget):
        via.run(["true"], "blue/", address=address)
    with pytest.raises(ConnectionFailed):
        via.run(["true"], "name:blue", address="unix:/nowhere")


def test_the_childs_own_preparation_runs_first_and_its_failure_is_told(network: Network, tmp_path: Path) -> None:
    address = network.daemon.address
    done = via.run(["pwd"], "name:blue", address=address, preexec_fn=lambda: os.chdir(tmp_path), capture_output=True, text=True)
    assert done.stdout == f"{tmp_path}\n"
    with pytest.raises(subprocess.SubprocessError, match="preexec_fn"):
        via.run(["true"], "name:blue", address=address, preexec_fn=lambda: os.chdir("/nowhere"))


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.EPERM, "does a sandbox forbid it?"), (errno.ENOSYS, "needs Linux 5.14")], ids=["EPERM", "ENOSYS"]
)
def test_where_no_filter_may_be_installed_nothing_runs(network: Network, tmp_path: Path, number: int, reason: str) -> None:
    with pytest.raises(CommandFailed, match=reason):
        via.run(
            ["touch", str(tmp_path / "ran")], "name:blue", address=network.daemon.address, preexec_fn=lambda: forbid_seccomp(number)
        )
    assert not (tmp_path / "ran").exists()


def forbid_seccomp(number: int) -> None:
    """Make seccomp(2) fail in the calling process, as sandboxes and kernels without it do."""
    load, if_equal, give = 0x20, 0x15, 0x06
    lines = [(load, 0, 0, 0), (if_equal, 0, 1, architecture().seccomp), (give, 0, 0, 0x50000 | number), (give, 0, 0, 0x7FFF0000)]
    text = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
    program = struct.pack("@HxxxxxxP", len(lines), ctypes.addressof(text))
    assert ctypes.CDLL(None).prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def test_inside_another_supervisor_it_says_why_it_cannot_run(network: Network) -> None:
    code = "import sys, nsbroker.via; nsbroker.via.run(['true'], 'name:blue', address=sys.argv[1])"
    done = via.run(
        [sys.executable, "-c", code, network.daemon.address],
        "name:blue",
        address=network.daemon.address,
        capture_output=True,
        text=True,
    )
    assert f"{CommandFailed.__name__}: cannot run the command with its sockets made inside" in done.stderr


def test_two_programs_at_once_and_a_fork_meanwhile(network: Network) -> None:
    code = f"input(); {BIND}"
    both = [
        via.Popen([sys.executable, "-c", code], "name:blue", address=network.daemon.address, text=True, stdin=-1, stdout=-1)
        for _ in range(2)
    ]
    assert "seccomp" in str(Snapshot.of(os.getpid()).fds)
    # A forked process must not keep the listeners open: without a supervisor, calls have to fail.
    assert "seccomp" not in as_user(0, lambda: str(Snapshot.of(os.getpid()).fds))
    for process in both:
        with process:
            assert process.communicate("\n", timeout=PATIENCE)[0] == f"{ADDRESS}\n"
        assert process.join(PATIENCE)


INTERRUPTED = """
import glob, os, signal, sys, threading
from nsbroker import via
try:
    via.Popen(
        ["sleep", "1000"], "name:blue", address=sys.argv[1], stdin=-1, preexec_fn=lambda: os.kill(os.getppid(), signal.SIGINT)
    )
except KeyboardInterrupt:
    print("interrupted")
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no child is left")
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join()
print("seccomp" in str([os.readlink(link) for link in glob.glob("/proc/self/fd/*") if os.path.lexists(link)]))
"""


def test_an_interrupted_start_leaves_no_program_behind(network: Network) -> None:
    # The signal waits until the program and its supervisor run, because this process has no other thread that could take it.
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, network.daemon.address], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert (done.stdout, done.stderr, done.returncode) == ("interrupted\nno child is left\nFalse\n", "", 0)
