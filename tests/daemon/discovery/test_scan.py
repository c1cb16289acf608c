"""One scan finds namespaces by each thing that keeps them alive, whatever happens meanwhile."""

import contextlib
import functools
import json
import os
import pwd
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.client.blocking import Broker
from nsbroker.daemon.discovery import scan
from nsbroker.daemon.discovery.stall_guard import Progress, StallGuard
from nsbroker.errors import ConnectionLost, PermissionDenied
from nsbroker.linux import setns
from nsbroker.linux.features import features
from nsbroker.linux.mounts import bind, unmount
from nsbroker.model.description import NamespaceDescription, ReferenceKind
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace
from tests.world import ALICE, Daemon, Sleeper, eventually, named_network


def found(broker: Broker, type: str, inode: int) -> NamespaceDescription | None:
    return next((one for one in broker.list([type]) if one.inode == inode), None)


def references(one: NamespaceDescription | None) -> set[ReferenceKind]:
    assert one is not None
    return {reference.kind for reference in one.references or ()}


def test_processes_are_counted_and_led_by_the_first(daemon: Daemon, sleeper: Sleeper) -> None:
    with daemon.connect() as broker:
        for ns_type in NamespaceType:
            one = found(broker, ns_type, sleeper.inode(ns_type))
            assert one is not None
            if ns_type in ("net", "uts", "ipc"):
                assert one.process is not None
                assert (one.processes, one.process.pid, one.process.uid) == (1, sleeper.pid, os.stat(f"/proc/{sleeper.pid}").st_uid)
                assert one.process.command.startswith(sys.executable)
                assert one.references is None
            with Namespace.from_pid(sleeper.pid, ns_type) as ns:
                assert (one.device, one.id) == (ns.device, ns.id.unique)
                try:
                    with ns.owner() as owner:
                        expected: tuple[int | None, int | None] = owner.inode, ns.owner_uid()
                except PermissionDenied:
                    # In a user namespace, the ones above it cannot be seen.
                    expected = None, ns.owner_uid() if ns_type == "user" else None
                assert (one.owner, one.owner_uid) == expected


def test_a_namespace_that_only_a_descriptor_keeps_alive(daemon: Daemon) -> None:
    with daemon.connect() as broker, Namespace.create("net") as ns:
        one = found(broker, "net", ns.inode)
        assert one is not None
        assert (one.processes, one.process) == (0, None)
        assert [(reference.kind, reference.pid, reference.number) for reference in one.references or ()] == [
            (ReferenceKind.DESCRIPTOR, os.getpid(), ns.fileno())
        ]


def test_only_files_whose_mount_is_gone_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process has pipes, epoll(7) instances and the like, and opening each of them takes as long as all other facts."""
    opened: list[tuple[int, int]] = []
    monkeypatch.setattr(scan, "_ns_id_at", lambda pid, number: opened.append((pid, number)))
    root = os.open("/", os.O_PATH)
    ends = os.pipe()
    try:
        with select.epoll(), open("/dev/null", "rb"), open(os.memfd_create("memory")):
            progress = Progress(StallGuard())
            progress.begin()
            scan.scan_host(progress)
    finally:
        for fd in (root, *ends):
            os.close(fd)
    # The link of a file whose mount is gone is the same as that of the root directory.
    assert (os.getpid(), root) in opened
    assert [number for pid, number in opened if pid == os.getpid()] == [root]


def test_a_network_that_only_a_socket_keeps_alive(daemon: Daemon) -> None:
    with Namespace.create("net") as ns:
        sock = ns.call(socket.socket, socket.AF_UNIX)
        inode = ns.inode
    with sock, daemon.connect() as broker:
        one = found(broker, "net", inode)
        assert one is not None
        assert (one.processes, one.id is not None) == (0, features().namespace_id)
        assert [(reference.kind, reference.pid, reference.number) for reference in one.references or ()] == [
            (ReferenceKind.SOCKET, os.getpid(), sock.fileno())
        ]


def test_a_namespace_that_only_one_thread_is_in(daemon: Daemon) -> None:
    ready, done = threading.Event(), threading.Event()

    def live() -> None:
        setns.unshare(setns.CLONE_NEWUTS)
        ready.set()
        done.wait()

    thread = threading.Thread(target=live)
    thread.start()
    ready.wait()
    inode = os.stat(f"/proc/{os.getpid()}/task/{thread.native_id}/ns/uts").st_ino
    with daemon.connect() as broker:
        one = found(broker, "uts", inode)
        assert one is not None
        assert [(reference.kind, reference.pid, reference.number) for reference in one.references or ()] == [
            (ReferenceKind.THREAD, os.getpid(), thread.native_id)
        ]
    done.set()
    thread.join()


def test_a_namespace_that_only_a_bind_mount_keeps_alive(daemon: Daemon, tmp_path: Path) -> None:
    place = tmp_path / "a place\twith\\odd characters"
    place.touch()
    with Namespace.create("uts") as ns:
        bind(f"/proc/self/fd/{ns.fileno()}", str(place))
        inode = ns.inode
    try:
        with daemon.connect() as broker:
            one = found(broker, "uts", inode)
            assert one is not None
            assert [(reference.kind, reference.pid, reference.path) for reference in one.references or ()] == [
                (ReferenceKind.MOUNT, None, str(place))
            ]
    finally:
        unmount(str(place))


def test_a_bind_mount_that_only_another_mount_namespace_has(daemon: Daemon, tmp_path: Path) -> None:
    place = tmp_path / "there"
    place.touch()
    with Sleeper(unshare="--mount --propagation private") as other:
        with Namespace.create("ipc") as ns:
            inode = ns.inode
            source = f"/proc/{os.getpid()}/fd/{ns.fileno()}"
            subprocess.run(["nsenter", "--mount", "--target", str(other.pid), "mount", "--bind", source, str(place)], check=True)
        with daemon.connect() as broker:
            one = found(broker, "ipc", inode)
            assert one is not None
            assert [(reference.kind, reference.pid, reference.path) for reference in one.references or ()] == [
                (ReferenceKind.MOUNT, other.pid, str(place))
            ]
    with daemon.connect() as broker:
        eventually(lambda: found(broker, "ipc", inode) is None, "it goes with the mount namespace")


def test_a_pid_namespace_that_waits_for_its_first_child_and_parents_without_a_process(daemon: Daemon) -> None:
    """The inner user namespace is in an outer one that has no process any more."""
    command = ["unshare", "--user", "--map-root-user", "unshare", "--user", "--map-root-user", "--pid", "--fork", "sleep", "100"]
    with subprocess.Popen(command, process_group=0) as process, daemon.connect() as broker:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        eventually(lambda: bool(children.read_text()), "the child is born")
        child = int(children.read_text().split()[0])
        eventually(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n", "it sleeps")
        inner = os.stat(f"/proc/{child}/ns/user").st_ino
        one = found(broker, "user", inner)
        assert one is not None
        outer = found(broker, "user", one.parent or 0)
        assert outer is not None
        assert outer.processes == 0
        assert references(outer) == {ReferenceKind.NAMESPACE}
        assert {reference.path for reference in outer.references or ()} >= {f"user:[{inner}]"}
        assert outer.parent == os.stat("/proc/self/ns/user").st_ino
        assert outer.owner_uid == os.getuid()
        pid = found(broker, "pid", os.stat(f"/proc/{child}/ns/pid").st_ino)
        assert pid is not None
        assert pid.parent == os.stat("/proc/self/ns/pid").st_ino
        os.killpg(process.pid, 9)


def lsns() -> list[dict[str, object]]:
    # lsns also fails when a process ends at the wrong moment.
    for _ in range(20):
        done = subprocess.run(["lsns", "--json", "--list", "--notruncate"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
    rows: list[dict[str, object]] = json.loads(done.stdout)["namespaces"]
    return rows


@pytest.mark.root
def test_it_is_a_superset_of_lsns_and_agrees_with_it(daemon: Daemon) -> None:
    with (
        Sleeper(),
        Sleeper(uid=ALICE, unshare="--net --mount"),
        Sleeper(unshare="--user --map-root-user --pid --fork --kill-child"),
        named_network("red"),
    ):

        def differences() -> list[tuple[object, object]]:
            with daemon.connect() as broker:
                theirs = lsns()
                ours = {one.inode: one for one in broker.list()}
            apart: list[tuple[object, object]] = []
            for row in theirs:
                one = ours.get(int(str(row["ns"])))
                if one is None or row["pid"] is None:
                    apart += [] if one else [(row["ns"], row)]
                    continue
                command = str(row["command"])
                # lsns itself is such a process.
                if one.process is None or "lsns" in command:
                    continue
                ours_row = (one.type, one.process.pid, user(one.process.uid or 0), one.process.command)
                # Where there are many processes, some come and go between the two lists.
                few = int(str(row["nprocs"])) < 5
                if ours_row != (row["type"], row["pid"], row["user"], command) or (few and one.processes != row["nprocs"]):
                    apart.append((row["ns"], (row, one)))
            return apart

        # Processes of others come and go between the two lists: it is enough that both have agreed on each namespace once.
        doubtful = differences()

        def all_have_agreed() -> bool:
            now = {ns for ns, _ in differences()}
            doubtful[:] = [(ns, apart) for ns, apart in doubtful if ns in now]
            return not doubtful

        eventually(all_have_agreed, f"both say the same: {doubtful}")


def user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@pytest.fixture
def fork_bomb() -> Iterator[None]:
    """Processes that fork and end as fast as they can, a few at a time."""
    code = "import os, time\nend = time.time() + 30\nwhile time.time() < end:\n    if os.fork() == 0: os._exit(0)\n    os.wait()\n"
    bombs = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    yield
    for bomb in bombs:
        bomb.kill()
        bomb.wait()


def test_processes_that_come_and_go_during_the_scan_are_no_error(daemon: Daemon, fork_bomb: None, sleeper: Sleeper) -> None:
    with daemon.connect() as broker:
        for _ in range(30):
            one = found(broker, "net", sleeper.inode("net"))
            assert one is not None
            assert one.processes == 1
    assert len(daemon.words()) == 1


def test_names_of_processes_with_any_bytes_in_them_are_shown_as_text(daemon: Daemon, sleeper: Sleeper) -> None:
    odd = b"new\nline \x1b[31m \xff\xfe end"
    apart = functools.partial(setns.unshare, setns.CLONE_NEWUTS)
    with subprocess.Popen([odd, b"100"], executable="/bin/sleep", preexec_fn=apart) as process:
        inode = 0

        def moved() -> bool:
            nonlocal inode
            inode = os.stat(f"/proc/{process.pid}/ns/uts").st_ino
            return inode != os.stat("/proc/self/ns/uts").st_ino and odd in Path(f"/proc/{process.pid}/cmdline").read_bytes()

        eventually(moved, "it is there")
        with daemon.connect() as broker:
            one = found(broker, "uts", inode)
            assert one is not None
            assert one.process is not None
            assert "new\nline \x1b[31m \\xff\\xfe end" in one.process.command
        process.kill()


@pytest.mark.root
def test_ten_thousand_namespaces_are_listed_and_leave_no_memory_behind(daemon: Daemon) -> None:
    namespaces = []
    with daemon.connect() as broker:
        broker.list()
        before = daemon.memory()
        after = []
        for _ in range(10_000):
            namespaces.append(Namespace.create("uts"))  # noqa: PERF401 - those made before a failure are closed, too
        inodes = {ns.inode for ns in namespaces}
        assert inodes <= {one.inode for one in broker.list(["uts"])}
        for _ in range(3):
            broker.list(["uts"])
            after.append(daemon.memory())
        for ns in namespaces:
            ns.close()
        broker.list()
        # Python's allocator keeps some memory and uses it the next time, so growth is limited but not zero.
        assert daemon.memory() - before < 20e6
        assert after[-1] - after[1] < 4e6


@pytest.mark.root
def test_a_mount_table_of_ten_thousand_lines_is_read(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    mounts = f"mount -t tmpfs x {tmp_path} && cd {tmp_path} && touch f && for i in $(seq 10000); do echo f f none bind 0 0; done"
    script = f"{mounts} > /run/fstab && mount --all --fstab /run/fstab; echo !; exec sleep 100"
    with subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", script], stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.read(1) == b"!"
        assert Path(f"/proc/{other.pid}/mountinfo").read_text().count("\n") > 10_000
        with Namespace.create("uts") as ns:
            inode, source = ns.inode, f"/proc/{os.getpid()}/fd/{ns.fileno()}"
            inside = ["nsenter", "--mount", "--target", str(other.pid)]
            subprocess.run([*inside, "mount", "--bind", source, str(tmp_path / "f")], check=True)
        with daemon.connect() as broker:
            # It is the last of ten thousand lines.
            assert references(found(broker, "uts", inode)) == {ReferenceKind.MOUNT}
        other.kill()


@pytest.mark.root
def test_a_proc_that_hides_others_processes_hides_none_from_root(tmp_path: Path) -> None:
    hide = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh"]
    with Daemon(tmp_path, prefix=hide) as daemon, Sleeper(uid=ALICE) as process, daemon.connect() as broker:
        one = found(broker, "net", process.inode("net"))
        assert one is not None
        assert one.process is not None
        assert one.process.pid == process.pid


@pytest.mark.root
def test_a_descriptor_that_was_opened_by_a_name_is_found_even_when_the_name_is_gone(daemon: Daemon) -> None:
    with named_network("green") as path:
        inode = path.stat().st_ino
        fd = os.open(path, os.O_RDONLY)
        with daemon.connect() as broker:
            assert references(found(broker, "net", inode)) == {ReferenceKind.MOUNT, ReferenceKind.DESCRIPTOR}
    with daemon.connect() as broker:
        assert references(found(broker, "net", inode)) == {ReferenceKind.DESCRIPTOR}
        broker.open(f"net:[{inode}]", "net").close()
    os.close(fd)


@pytest.mark.root
def test_a_bind_mount_at_a_path_that_is_no_text_is_shown_with_escapes(daemon: Daemon, tmp_path: Path) -> None:
    place = os.fsencode(tmp_path) + b"/a\xff\n"
    os.close(os.open(place, os.O_CREAT | os.O_WRONLY))
    with Namespace.create("uts") as ns:
        bind(f"/proc/self/fd/{ns.fileno()}", os.fsdecode(place))
        inode = ns.inode
    with daemon.connect() as broker:
        one = found(broker, "uts", inode)
        assert one is not None
        assert [reference.path for reference in one.references or ()] == [f"{tmp_path}/a\\xff\n"]
        broker.open(f"uts:[{inode}]", "uts").close()
    unmount(os.fsdecode(place))


def test_what_goes_from_one_short_lived_process_to_the_next_is_not_gone(daemon: Daemon, tmp_path: Path) -> None:
    """A chain of processes in one network namespace: each one ends as soon as the next is born."""
    code = """
import os, sys, time
print(os.stat("/proc/self/ns/net").st_ino, flush=True)
while os.path.exists(sys.argv[1]):
    if os.fork():
        os._exit(0)
    time.sleep(0.002)
"""
    goes_on = tmp_path / "goes-on"
    goes_on.touch()
    with subprocess.Popen(["unshare", "--net", sys.executable, "-c", code, str(goes_on)], stdout=subprocess.PIPE) as first:
        assert first.stdout
        inode = int(first.stdout.readline())
        try:
            with daemon.connect() as broker, broker.watch(["net"]) as events:
                # The first scan can miss it, too.
                while (event := next(events)).namespace is None or event.namespace.inode != inode:
                    pass
                timer = threading.Timer(1, events.close)
                timer.start()
                gone = []
                with contextlib.suppress(ConnectionLost):
                    gone = [one for one in events if one.event == "gone" and one.namespace and one.namespace.inode == inode]
                timer.join()
        finally:
            goes_on.unlink()
    assert gone == []


@pytest.mark.root
def test_long_paths_and_commands_fit_into_a_reply(daemon: Daemon, tmp_path: Path) -> None:
    folder = tmp_path
    while len(str(folder)) < 3700:
        folder /= "\x1b" * 250
        folder.mkdir()
    odd = b"\xff" * 100_000
    apart = functools.partial(setns.unshare, setns.CLONE_NEWUTS)
    places = [folder / f"{number}" for number in range(20)]
    with subprocess.Popen([odd, b"100"], executable="/bin/sleep", preexec_fn=apart) as process:
        eventually(lambda: b"\xff" in Path(f"/proc/{process.pid}/cmdline").read_bytes(), "it runs")
        inode = os.stat(f"/proc/{process.pid}/ns/uts").st_ino
        for place in places:
            place.touch()
            bind(f"/proc/{process.pid}/ns/uts", str(place))
        with daemon.connect() as broker:
            one = found(broker, "uts", inode)
            assert one is not None
            assert one.process is not None
            assert len(one.process.command) == 1024
            assert [reference.path for reference in one.references or ()] == [str(places[0])]
        for place in places:
            unmount(str(place))
        process.kill()
