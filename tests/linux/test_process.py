"""Pinned processes, once with the features of this kernel and once without any of them, as on Linux 5.10."""

import errno
import hashlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.linux import process as process_module
from nsbroker.linux import procfs, setns
from nsbroker.linux.features import Features, features
from nsbroker.linux.process import Process
from nsbroker.model.identity import NamespaceType
from tests.world import ALICE, Sleeper, eventually


@pytest.fixture(params=["this kernel", "Linux 5.10"], autouse=True)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "Linux 5.10":
        monkeypatch.setattr(process_module, "features", Features)


@pytest.fixture
def thread() -> Iterator[int]:
    """The TID of a thread of this process that is in a uts namespace of its own."""
    ready, done = threading.Event(), threading.Event()

    def live() -> None:
        setns.unshare(setns.CLONE_NEWUTS)
        ready.set()
        done.wait()

    thread = threading.Thread(target=live)
    thread.start()
    ready.wait()
    assert thread.native_id
    yield thread.native_id
    done.set()
    thread.join()


def inode(process: Process, ns_type: str) -> int:
    fd = process.open_namespace(ns_type)
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def test_all_eight_namespaces_are_those_that_proc_shows(sleeper: Sleeper) -> None:
    with Process.open(sleeper.pid) as process:
        expected = {ns_type: sleeper.inode(ns_type) for ns_type in NamespaceType}
        assert {ns_type: inode(process, ns_type) for ns_type in NamespaceType} == expected


@pytest.mark.root
def test_info_has_the_number_and_the_uids() -> None:
    with Sleeper(uid=ALICE) as sleeper, Process.open(sleeper.pid) as process:
        assert process.info() == (sleeper.pid, sleeper.pid, (ALICE,) * 4)


def test_every_pidfd_of_a_process_has_the_inode_of_that_process_alone() -> None:
    with Sleeper() as sleeper, Process.open(sleeper.pid) as one, Process.open(sleeper.pid) as same, Process.open(os.getpid()) as me:
        assert one.inode() == same.inode()
        # Before Linux 6.9 there is one inode for all.
        release = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))
        assert (one.inode() != me.inode()) is (release >= (6, 9))
        sleeper.end()
        assert one.inode() == same.inode()


def test_a_process_that_is_gone_is_not_found(sleeper: Sleeper) -> None:
    sleeper.end()
    with pytest.raises(ProcessLookupError):
        Process.open(sleeper.pid)


@pytest.mark.parametrize("reap", [True, False])
def test_a_process_that_ends_while_pinned_gives_no_namespace(sleeper: Sleeper, reap: bool) -> None:
    with Process.open(sleeper.pid) as process:
        inode(process, "net")
        assert not process.has_ended()
        sleeper.end(reap=reap)
        eventually(process.has_ended, "the pidfd shows that the process has ended")
        with pytest.raises(ProcessLookupError):
            process.open_namespace("net")


def test_facts_of_a_process_that_was_reaped_are_refused(sleeper: Sleeper) -> None:
    with Process.open(sleeper.pid) as process:
        process.info()
        sleeper.end()
        for read in (process.info, process.start_time, process.cgroups):
            with pytest.raises(ProcessLookupError):
                read()


def test_a_thread_is_refused_as_a_process(thread: int) -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        Process.open(thread)
    assert caught.value.errno == errno.EINVAL


def test_a_thread_has_its_own_namespaces(thread: int) -> None:
    with Process.open_thread(os.getpid(), thread) as process:
        assert process.info()[:2] == (thread, os.getpid())
        assert inode(process, "uts") == os.stat(f"/proc/self/task/{thread}/ns/uts").st_ino
        assert inode(process, "uts") != os.stat("/proc/self/ns/uts").st_ino


def test_a_thread_of_another_process_is_not_found(thread: int, sleeper: Sleeper) -> None:
    with pytest.raises(ProcessLookupError):
        Process.open_thread(sleeper.pid, thread)


def test_from_pidfd_pins_the_process_of_the_pidfd(sleeper: Sleeper) -> None:
    with Process.from_pidfd(os.pidfd_open(sleeper.pid)) as process:
        assert process.pid == sleeper.pid
        assert inode(process, "net") == sleeper.inode("net")


def test_from_pidfd_pins_the_thread_of_a_thread_pidfd(thread: int) -> None:
    if not features().pidfd_thread:
        with pytest.raises(OSError, match="Invalid argument"):
            os.pidfd_open(thread, os.O_EXCL)
        return
    with Process.from_pidfd(os.pidfd_open(thread, os.O_EXCL)) as process:
        assert (process.pid, process.tid) == (os.getpid(), thread)


def test_an_fd_that_is_no_pidfd_is_refused_and_closed() -> None:
    fd = os.open(os.devnull, os.O_RDONLY)
    with pytest.raises(OSError, match="not a pidfd"):
        Process.from_pidfd(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_pidfd_of_a_process_that_is_gone_is_refused(sleeper: Sleeper) -> None:
    fd = os.pidfd_open(sleeper.pid)
    sleeper.end()
    with pytest.raises(ProcessLookupError):
        Process.from_pidfd(fd)


def test_start_time_is_that_of_proc_even_with_a_strange_command(tmp_path: Path) -> None:
    strange = tmp_path / "a) b (c"
    strange.symlink_to("/bin/sleep")
    running = subprocess.Popen([strange, "600"])
    try:
        eventually(lambda: Path(f"/proc/{running.pid}/comm").read_text() != "python\n", "exec")
        with Process.open(running.pid) as process:
            stat = Path(f"/proc/{running.pid}/stat").read_text()
            assert process.start_time() == int(stat[stat.rindex(")") :].split()[20])
    finally:
        running.kill()
        running.wait()


def test_control_groups_are_those_of_proc() -> None:
    with Process.open(os.getpid()) as process:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        assert process.cgroups() == {line.split(":")[1]: line.split(":", 2)[2] for line in lines}


def test_close_twice_is_harmless(sleeper: Sleeper) -> None:
    process = Process.open(sleeper.pid)
    process.info()
    process.close()
    process.close()


def test_the_processor_time_of_a_process_grows_as_it_works() -> None:
    directory = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    try:
        before = procfs.processor_time(directory)
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
        # The kernel counts in hundredths of a second.
        assert before + 0.05 < procfs.processor_time(directory) < time.process_time() + 60
    finally:
        os.close(directory)


def test_a_thread_that_computes_runs_and_one_that_waits_does_not() -> None:
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            # This computes without the interpreter's lock.
            hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000)

    threads = [threading.Thread(target=compute), threading.Thread(target=over.wait)]
    for thread in threads:
        thread.start()
    computing, waiting = (thread.native_id or 0 for thread in threads)
    try:
        eventually(lambda: procfs.thread_runs(computing) and not procfs.thread_runs(waiting), "only one of them runs")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not procfs.thread_runs(-1)
