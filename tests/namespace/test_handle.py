import errno
import os
import pickle
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from nsbroker.errors import InvalidTarget, InvalidType, NoSuchTarget, NotANamespace, PermissionDenied
from nsbroker.linux import nsfs, setns
from nsbroker.linux.features import features
from nsbroker.linux.process import Process
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace, opening
from tests.world import ALICE, Sleeper, as_user, eventually


@pytest.mark.parametrize("ns_type", NamespaceType)
def test_from_pid_opens_what_proc_shows(sleeper: Sleeper, ns_type: NamespaceType) -> None:
    with Namespace.from_pid(sleeper.pid, ns_type) as ns:
        assert (ns.type, ns.inode) == (ns_type, sleeper.inode(ns_type))
        assert str(ns) == os.readlink(f"/proc/{sleeper.pid}/ns/{ns_type}")
        assert not os.get_inheritable(ns.fileno())


def test_from_pid_says_which_number_is_wrong(sleeper: Sleeper) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    with pytest.raises(NoSuchTarget, match=f"tid:PROCESS/{thread.native_id}"):
        Namespace.from_pid(thread.native_id or 0, "net")
    stop.set()
    thread.join()
    sleeper.end(reap=False)
    with pytest.raises(NoSuchTarget, match="has ended"):
        Namespace.from_pid(sleeper.pid, "net")
    sleeper.end()
    with pytest.raises(NoSuchTarget, match="no such process"):
        Namespace.from_pid(sleeper.pid, "net")
    for number in (-1, 0, 2**31, 2**63):
        with pytest.raises(NoSuchTarget, match="no process can have that number"):
            Namespace.from_pid(number, "net")


def test_from_thread_refuses_a_thread_of_another_process(sleeper: Sleeper) -> None:
    with Namespace.from_thread(sleeper.pid, sleeper.pid, "net") as ns:
        assert ns.inode == sleeper.inode("net")
    with pytest.raises(NoSuchTarget, match=f"process {os.getpid()} has no thread {sleeper.pid}"):
        Namespace.from_thread(os.getpid(), sleeper.pid, "net")


def test_a_thread_that_ends_while_it_is_opened_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    real = Process.open_namespace

    def too_late(process: Process, ns_type: str) -> int:
        stop.set()
        thread.join()
        eventually(process.has_ended, "the thread is gone")
        return real(process, ns_type)

    monkeypatch.setattr(Process, "open_namespace", too_late)
    with pytest.raises(NoSuchTarget, match="has ended"):
        Namespace.from_thread(os.getpid(), thread.native_id or 0, "net")


def test_a_type_known_beforehand_costs_no_ioctl(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_ioctl(fd: int) -> int:
        raise AssertionError("the kernel was asked")

    monkeypatch.setattr(nsfs, "namespace_type", no_ioctl)
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    Namespace.from_fd(fd, owned=True, type="net", verify=False).close()
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    with pytest.raises(AssertionError, match="asked"):
        Namespace.from_fd(fd, owned=True, type="net")


@pytest.mark.root
def test_another_users_process_takes_cap_sys_ptrace(sleeper: Sleeper) -> None:
    def look() -> None:
        with pytest.raises(PermissionDenied, match="CAP_SYS_PTRACE"):
            Namespace.from_pid(sleeper.pid, "net")

    as_user(ALICE, look)


@pytest.mark.parametrize(
    ("path", "error", "text"),
    [
        ("/nowhere", NoSuchTarget, "no such file"),
        ("/etc/passwd", NotANamespace, "plain file"),
        ("/etc", NotANamespace, "directory"),
        ("/dev/null", NotANamespace, "character device"),
        ("/proc/self/stat", NotANamespace, "plain file"),
    ],
)
def test_from_path_says_what_it_found_instead(path: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Namespace.from_path(path)


def test_from_path_does_not_hang_on_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NotANamespace, match="FIFO"):
        Namespace.from_path(tmp_path / "fifo")


def test_a_wrong_type_is_refused_and_closed() -> None:
    with pytest.raises(NotANamespace, match="a net namespace, not uts"):
        Namespace.from_path("/proc/self/ns/net", "uts")
    with pytest.raises(InvalidType, match="cgroup, ipc, mnt"):
        Namespace.from_path("/proc/self/ns/net", "network")


@pytest.mark.root
def test_from_name_is_what_ip_netns_made(blue: Path) -> None:
    with Namespace.from_name("blue") as ns, Namespace.from_path(blue) as same:
        assert ns == same
        assert ns.type == "net"


@pytest.mark.root
def test_a_handle_by_name_keeps_no_mount_busy_and_prints_as_a_namespace(blue: Path) -> None:
    with Namespace.from_name("blue") as ns:
        assert str(ns) == f"net:[{blue.stat().st_ino}]"
        # Before Linux 6.18 the handle does keep the mount busy, and the link of its descriptor is the path.
        shown = str(ns) if features().namespace_id else str(blue)
        assert os.readlink(f"/proc/self/fd/{ns.fileno()}") == shown


@pytest.mark.root
def test_without_file_handles_of_namespaces_the_mount_is_used(blue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int) -> int:
        raise OSError(errno.EBADF, "as on Linux 6.17")

    monkeypatch.setattr(opening, "reopen_namespace", refuse)
    with Namespace.from_name("blue") as ns:
        assert ns.inode == blue.stat().st_ino


@pytest.mark.parametrize("name", ["", ".", "..", "../blue", "a/b", "a\0b", "ä", "a b", "x" * 300])
def test_from_name_takes_one_harmless_component(name: str) -> None:
    with pytest.raises(InvalidTarget, match="letters, digits"):
        Namespace.from_name(name)


def test_from_name_refuses_what_is_no_namespace() -> None:
    folder = Path("/run/netns")
    folder.mkdir(exist_ok=True)
    (folder / "plain").write_text("")
    (folder / "link").symlink_to("/proc/self/ns/net")
    (folder / "dangling").symlink_to("/nowhere")
    os.mkfifo(folder / "fifo")
    try:
        for name, text in (("plain", "plain file"), ("link", "symbolic link"), ("dangling", "symbolic link"), ("fifo", "FIFO")):
            with pytest.raises(NotANamespace, match=text):
                Namespace.from_name(name)
        with pytest.raises(NoSuchTarget, match="ip netns"):
            Namespace.from_name("missing")
    finally:
        for name in ("plain", "link", "dangling", "fifo"):
            (folder / name).unlink()


def test_from_fd_owned_closes_and_borrowed_does_not() -> None:
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    with Namespace.from_fd(fd, owned=False, type="net") as borrowed:
        assert borrowed.inode == os.fstat(fd).st_ino
    os.fstat(fd)
    Namespace.from_fd(fd, owned=True).close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_from_fd_refuses_what_is_no_namespace_and_closes_it_when_owned() -> None:
    fd = os.open(os.devnull, os.O_RDONLY)
    with pytest.raises(NotANamespace, match="character device"):
        Namespace.from_fd(fd, owned=False)
    with pytest.raises(NotANamespace, match="character device"):
        Namespace.from_fd(fd, owned=True)
    for number in (fd, -1):
        with pytest.raises(ValueError, match="not open"):
            Namespace.from_fd(number, owned=True)


def test_an_inheritable_fd_becomes_close_on_exec_when_owned() -> None:
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    os.set_inheritable(fd, True)
    with Namespace.from_fd(fd, owned=True):
        assert not os.get_inheritable(fd)


def test_current_is_the_calling_threads() -> None:
    found: list[bool] = []

    def look() -> None:
        setns.unshare(setns.CLONE_NEWUTS)
        with Namespace.current("uts") as own, Namespace.from_pid(os.getpid(), "uts") as main:
            found.append(own == main)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [False]


def test_equality_is_of_namespaces_not_of_descriptors(sleeper: Sleeper) -> None:
    with Namespace.current("net") as one, Namespace.current("net") as two, Namespace.from_pid(sleeper.pid, "net") as other:
        assert one == two
        assert hash(one) == hash(two)
        assert one != other
        assert one != "net"
        assert len({one, two, other}) == 2


def test_a_closed_handle_raises_but_keeps_its_id() -> None:
    ns = Namespace.current("net")
    name = str(ns)
    assert not ns.closed
    ns.close()
    ns.close()
    assert ns.closed
    assert str(ns) == name
    assert repr(ns) == f"<Namespace {name} closed>"
    for use in (ns.fileno, ns.owner, ns.detach, ns.owner_uid):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_a_forgotten_handle_warns() -> None:
    with pytest.warns(ResourceWarning, match="unclosed <Namespace net:"):
        Namespace.current("net")


def test_pickling_is_refused_with_a_reason() -> None:
    with Namespace.current("net") as ns, pytest.raises(TypeError, match="Conduit"):
        pickle.dumps(ns)


def test_detach_gives_the_descriptor_away() -> None:
    ns = Namespace.current("net")
    fd = ns.detach()
    assert ns.closed
    os.close(fd)


def test_owner_and_parent_of_a_child_user_namespace() -> None:
    with (
        Sleeper("--user --map-root-user --net") as sleeper,
        Namespace.from_pid(sleeper.pid, "net") as net,
        Namespace.from_pid(sleeper.pid, "user") as user,
    ):
        with net.owner() as owner, user.parent() as parent, Namespace.current("user") as ours:
            assert owner == user
            assert parent == ours
        assert net.owner_uid() == user.owner_uid() == os.geteuid()


def test_parent_of_a_namespace_without_one_says_why() -> None:
    with Namespace.current("net") as net, pytest.raises(InvalidType, match="only user and pid"):
        net.parent()
    with Namespace.current("user") as user, pytest.raises(PermissionDenied, match="seen from here"):
        user.parent()


def test_the_id_knows_what_the_kernel_knows() -> None:
    with Namespace.current("net") as ns:
        facts = os.stat("/proc/self/ns/net")
        assert (ns.id.inode, ns.id.device) == (facts.st_ino, facts.st_dev)
        assert (ns.id.unique is not None) == features().namespace_id


def test_a_namespace_outlives_its_process(sleeper: Sleeper) -> None:
    with Namespace.from_pid(sleeper.pid, "net") as ns:
        sleeper.end()
        assert os.fstat(ns.fileno()).st_ino == ns.inode


def test_a_child_inherits_no_handle() -> None:
    with Namespace.current("net") as ns:
        done = subprocess.run(["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, check=True, close_fds=False)
    assert f"net:[{ns.inode}]" not in done.stdout


def test_a_socket_is_not_taken_for_a_namespace() -> None:
    with socket.socket() as sock, pytest.raises(NotANamespace, match="a socket"):
        Namespace.from_fd(sock.fileno(), owned=False)


@pytest.mark.parametrize("number", [True, False, "1", 1.0, None])
def test_a_process_number_is_an_int_not_a_bool_or_text(number: object) -> None:
    with pytest.raises(InvalidTarget, match="no process or thread number"):
        Namespace.from_pid(number, "net")  # type: ignore[arg-type]  # a wrong type is the point
    with pytest.raises(InvalidTarget, match="no process or thread number"):
        Namespace.from_thread(os.getpid(), number, "net")  # type: ignore[arg-type]  # as above
