"""Every way to name a target, and the error of each that leads nowhere."""

import os
import threading
from pathlib import Path

import pytest

from nsbroker import Target
from nsbroker.errors import EngineUnavailable, InvalidParameter, NoSuchTarget, NotANamespace, NsbrokerError
from tests.world import Daemon, Sleeper


def test_every_way_to_name_a_target_leads_to_the_same_namespace(daemon: Daemon, sleeper: Sleeper, blue: Path) -> None:
    pidfd = os.pidfd_open(sleeper.pid)
    inode = sleeper.inode("net")
    targets: list[str | Target] = [f"pid:{sleeper.pid}", f"tid:{sleeper.pid}/{sleeper.pid}", f"net:[{inode}]", Target.pidfd(pidfd)]
    with daemon.connect() as broker:
        for target in targets:
            with broker.open(target, "net") as ns:
                assert ns.inode == inode
        with broker.open("self", "net") as ns:
            assert ns.inode == os.stat("/proc/self/ns/net").st_ino
        for target in ("name:blue", "path:/run/netns/blue"):
            with broker.open(target, "net") as ns:
                assert ns.inode == blue.stat().st_ino
    os.close(pidfd)


def test_a_thread_has_its_own_namespaces(daemon: Daemon) -> None:
    from nsbroker.linux import setns

    ready, done = threading.Event(), threading.Event()

    def live() -> None:
        setns.unshare(setns.CLONE_NEWUTS)
        ready.set()
        done.wait()

    thread = threading.Thread(target=live)
    thread.start()
    ready.wait()
    with daemon.connect() as broker:
        with broker.open(f"tid:{os.getpid()}/{thread.native_id}", "uts") as ns:
            assert ns.inode == os.stat(f"/proc/self/task/{thread.native_id}/ns/uts").st_ino
        with pytest.raises(NoSuchTarget, match=f"tid:PROCESS/{thread.native_id}"):
            broker.open(f"pid:{thread.native_id}", "net")
    done.set()
    thread.join()


def test_missing_things_each_have_their_error(daemon: Daemon, sleeper: Sleeper, blue: Path) -> None:
    folder = blue.parent
    (folder / "plain").write_text("")
    os.mkfifo(folder / "fifo")
    (folder / "link").symlink_to("/proc/self/ns/net")
    (folder / "dangling").symlink_to("/nowhere")
    ended = os.pidfd_open(sleeper.pid)
    sleeper.end(reap=False)
    before = daemon.snapshot()
    cases: list[tuple[str | Target, str, type[NsbrokerError], str]] = [
        (f"pid:{sleeper.pid}", "net", NoSuchTarget, "ended"),
        ("pid:2147483647", "net", NoSuchTarget, "no such process"),
        (f"tid:{os.getpid()}/{sleeper.pid}", "net", NoSuchTarget, "no thread"),
        ("name:green", "net", NoSuchTarget, "no /run/netns/green"),
        ("name:plain", "net", NotANamespace, "plain file"),
        ("name:fifo", "net", NotANamespace, "FIFO"),
        ("name:link", "net", NotANamespace, "symbolic link"),
        ("name:dangling", "net", NotANamespace, "symbolic link"),
        ("path:/run/netns/missing", "net", NoSuchTarget, "no such file"),
        ("path:/run/netns/link", "net", NotANamespace, "symbolic link"),
        (f"path:/proc/{os.getpid()}/ns/net", "net", NotANamespace, "symbolic link"),
        ("path:/etc/passwd", "net", NotANamespace, "plain file"),
        ("name:blue", "uts", NotANamespace, "a net namespace, it has no uts"),
        ("docker:web", "net", EngineUnavailable, "docker"),
        ("unit:a.service", "net", EngineUnavailable, "systemd"),
        (Target.pidfd(ended), "net", NoSuchTarget, "ended"),
    ]
    with daemon.connect() as broker:
        for target, ns_type, error, text in cases:
            with pytest.raises(error, match=text):
                broker.open(target, ns_type)
    sleeper.end()
    with daemon.connect() as broker, pytest.raises(NoSuchTarget, match="ended"):
        broker.open(Target.pidfd(ended), "net")
    os.close(ended)
    daemon.settles_at(before)
    for name in ("plain", "fifo", "link", "dangling"):
        (folder / name).unlink()


def test_an_id_that_nothing_has_is_not_found(daemon: Daemon) -> None:
    with daemon.connect() as broker, pytest.raises(NoSuchTarget, match="keeps it alive"):
        broker.open("net:[1]", "net")


def test_an_fd_that_is_no_pidfd_is_refused(daemon: Daemon) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    with daemon.connect() as broker, pytest.raises(InvalidParameter, match=r"target\.pidFileDescriptor"):
        broker.open(Target.pidfd(null), "net")
    os.close(null)
