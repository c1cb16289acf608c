"""Processes and folders that block whoever looks at them for ever: that must cost only the user who made them."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nsbroker.errors import NoSuchDevice, NoSuchTarget, TargetChanged
from nsbroker.linux.features import features
from nsbroker.model.identity import Expectation
from nsbroker.namespace import Namespace
from tests.world import ALICE, SLOWNESS, Daemon, Sleeper, as_user, eventually

pytestmark = pytest.mark.root
DEADLINE = 0.3 * SLOWNESS
"""Seconds."""


@contextmanager
def victim(folder: Path, kind: str) -> Iterator[int]:
    """Start a process that blocks whoever looks at it.  The test itself must not look at it."""
    program = [sys.executable, str(Path(__file__).with_name("silent_files.py")), str(folder), kind]
    command = ["unshare", "--mount", "--propagation", "private", *program]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout
        pid = int(server.stdout.readline())
        try:
            yield pid
        finally:
            os.kill(pid, 9)
            server.kill()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "silent"
    folder.mkdir()
    return folder


def test_a_process_inside_execve_is_left_out_and_holds_nobody_up(daemon: Daemon, place: Path) -> None:
    with Sleeper(uid=ALICE) as other, victim(place, "in_execve") as pid, daemon.connect() as broker:
        assert other.pid in {one.process.pid for one in broker.list(["net"]) if one.process is not None}
        stuck = stuck_threads(daemon)
        # A caller that hangs up leaves no blocked thread behind for which no process is blamed.
        for _ in range(30):
            with daemon.raw() as sock:
                sock.send(b'{"method":"io.nsbroker.Broker.List","parameters":{},"more":true}\0')
                time.sleep(0.02)
        # A process that is known to block is not looked at again.
        for _ in range(5):
            broker.list()
        eventually(lambda: stuck_threads(daemon) == stuck, "no further thread is stuck")
        assert as_user(ALICE, lambda: len(daemon.connect().list(["net"]))) > 0
        if features().pidfd_namespaces:
            # Its namespaces can be opened; on most kernels its start time cannot be read.
            broker.open(f"pid:{pid}", "uts").close()
            with pytest.raises(TargetChanged, match=r"blocks reading its /proc entry|it started at"):
                broker.open(f"pid:{pid}", "uts", expect=Expectation(start_time=1))
        else:
            # Some of these kernels (5.10.262) let nobody open them meanwhile.  Repeated attempts must not each take long.
            start = time.monotonic()
            for _ in range(20):
                with contextlib.suppress(NoSuchTarget):
                    broker.open(f"pid:{pid}", "uts").close()
            assert time.monotonic() - start < 5 * SLOWNESS
        broker.who_am_i()


def stuck_threads(daemon: Daemon) -> int:
    """Return how many threads of the daemon are in a wait that no signal interrupts, such as that for another's execve(2)."""
    count = 0
    for task in Path(f"/proc/{daemon.pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            count += (task / "stat").read_text().rpartition(") ")[2].startswith("D")
    return count


def test_a_folder_that_never_answers_through_an_overlay_holds_up_only_calls_about_it(tmp_path: Path, place: Path) -> None:
    with (
        Daemon(tmp_path, limits=f"device-deadline = {DEADLINE}") as daemon,
        victim(place, "below_overlay") as pid,
        Sleeper() as other,
        daemon.connect() as broker,
    ):
        for _ in range(2):
            with pytest.raises(NoSuchDevice, match="did not answer in time"):
                broker.device(f"pid:{pid}", "null")
        start = time.monotonic()
        for _ in range(10):
            with pytest.raises(NoSuchDevice, match="did not answer in time"):
                broker.device(f"pid:{pid}", "null")
        assert time.monotonic() - start < 10 * DEADLINE / 2, "calls waited for a process that is known to block"
        broker.who_am_i()
        broker.device(f"pid:{other.pid}", "null").close()
        broker.open(f"pid:{pid}", "net").close()


def test_what_covers_a_namespace_at_a_path_of_another_user_is_not_opened(daemon: Daemon, tmp_path: Path) -> None:
    """It is a FIFO, at a path that looks like one in /proc."""
    folder = tmp_path / "ns"
    folder.mkdir()
    (folder / "net").touch()
    os.mkfifo(folder / "fifo")
    with Namespace.create("net") as ns, Sleeper(unshare="--mount --propagation private", uid=ALICE) as process:
        inside = ["nsenter", "--mount", "--target", str(process.pid), "mount", "--bind"]
        source = f"/proc/{os.getpid()}/fd/{ns.fileno()}"
        subprocess.run([*inside, source, str(folder / "net")], check=True)
        subprocess.run([*inside, str(folder / "fifo"), str(folder / "net")], check=True)
        inode = ns.inode
        ns.close()
        before = daemon.snapshot()
        with daemon.connect() as broker:
            for _ in range(3):
                (one,) = [one for one in broker.list(["net"]) if one.inode == inode]
                assert (one.owner, [str(reference.kind) for reference in one.references or ()]) == (None, ["mount"])
        daemon.settles_at(before)
