"""OpenFile: the configuration of a target's names, and the files of its network."""

import fcntl
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nsbroker.client.blocking import connect
from nsbroker.errors import InvalidParameter, NoSuchFile, NoSuchTarget, NsbrokerError, PermissionDenied
from nsbroker.model.target_file import CONFIGURATION, NETWORK
from tests.daemon.methods.hung import hung_file_system
from tests.daemon.test_dispatcher import call
from tests.world import ALICE, BOB, SLOWNESS, Daemon, Sleeper, as_user, eventually, listen_inside, named_network

pytestmark = pytest.mark.root

TEXT = b"nameserver 10.0.0.1\nsearch example.com\n\xff\x1b[31m\n"


@pytest.fixture
def room() -> Iterator[tuple[str, Path]]:
    """A process with an /etc of its own, in which resolv.conf has TEXT.  Yields its target, and the path of its /etc from here."""
    with Sleeper(unshare="--net --mount --propagation private") as process:
        mount_inside(f"pid:{process.pid}", "-t", "tmpfs", "-o", "mode=755", "etc", "/etc")
        etc = Path(f"/proc/{process.pid}/root/etc")
        (etc / "resolv.conf").write_bytes(TEXT)
        yield f"pid:{process.pid}", etc


def mount_inside(target: str, *arguments: str) -> None:
    pid = target.removeprefix("pid:")
    subprocess.run(["nsenter", "--mount", "--target", pid, "mount", *arguments], check=True)


def allow(daemon: Daemon, *files: str, who: int = ALICE, targets: tuple[str, ...] = ("pid:*", "name:*")) -> None:
    daemon.allow("files", who=[f"user:{who}"], targets=list(targets), files=list(files))


def opened(daemon: Daemon, target: str, name: str) -> Callable[[], bytes | str]:
    """Return a function that reads a file, and returns its content, or the error as text."""

    def ask() -> bytes | str:
        with connect(daemon.address) as broker:
            try:
                with broker.file(target, name) as file:
                    return file.read()
            except NsbrokerError as error:
                return f"{type(error).__name__}: {error}"

    return ask


def test_the_configuration_is_a_sealed_copy(daemon: Daemon, room: tuple[str, Path]) -> None:
    target, etc = room
    (etc / "hosts").write_bytes(b"")
    allow(daemon, "resolv.conf", "hosts")
    with daemon.connect() as broker, broker.file(target, "resolv.conf") as file:
        (etc / "resolv.conf").write_bytes(b"changed")
        assert file.read() == TEXT
        assert fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        assert fcntl.fcntl(file, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert fcntl.fcntl(file, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
    assert as_user(ALICE, opened(daemon, target, "resolv.conf")) == b"changed"
    assert as_user(ALICE, opened(daemon, target, "hosts")) == b""
    record = [record for record in daemon.records() if record["method"] == "OpenFile"][1]
    assert (record["wanted"], record["verdict"], record["rule"]) == ("file resolv.conf", "allowed", "files")


def test_each_file_takes_its_permission_and_no_other_permission_includes_it(daemon: Daemon, room: tuple[str, Path]) -> None:
    target, _ = room
    all_but_files = {"namespaces": ["*"], "sockets": ["*"], "devices": ["*"], "marks": ["*"], "create": ["*"], "hold": ["*"]}
    daemon.allow("bob", who=[f"user:{BOB}"], targets=["*"], **all_but_files)
    allow(daemon, "net/dev")
    for name in (*CONFIGURATION, *NETWORK):
        for who in (ALICE, BOB):
            denied = str(as_user(who, opened(daemon, target, name))).startswith("PermissionDenied")
            assert denied is not (who == ALICE and name == "net/dev"), (who, name)
    assert "lets you have the file hosts there" in str(as_user(ALICE, opened(daemon, target, "hosts")))


@pytest.mark.parametrize("name", ["", "passwd", "net/../hosts", "net", "/etc/hosts", "net/fib_trie", "hosts\0", "x" * 300])
def test_another_name_is_a_bad_parameter(daemon: Daemon, room: tuple[str, Path], name: str) -> None:
    with daemon.connect() as broker, pytest.raises(InvalidParameter, match="name"):
        broker.file(room[0], name)


def test_the_request_is_checked_as_every_other(daemon: Daemon) -> None:
    for parameters in ({"target": {"self": True}}, {"name": "hosts"}, {"target": {"self": True}, "name": "hosts", "mode": "w"}):
        assert call(daemon, "io.nsbroker.Broker.OpenFile", parameters)["error"] == "org.varlink.service.InvalidParameter"


def test_every_file_of_the_network_is_the_one_that_is_inside(daemon: Daemon, blue: Path) -> None:
    allow(daemon, "*")
    subprocess.run(["ip", "-n", "blue", "link", "set", "lo", "up"], check=True)
    for name in NETWORK:
        inside = subprocess.run(["ip", "netns", "exec", "blue", "cat", f"/proc/{name}"], capture_output=True, check=False)
        if inside.returncode:
            # A kernel without IPv6, for example.
            assert "NoSuchFile" in str(as_user(ALICE, opened(daemon, "name:blue", name)))
            continue
        found = as_user(ALICE, opened(daemon, "name:blue", name))
        assert isinstance(found, bytes)
        assert [line.split()[:1] for line in found.splitlines()] == [line.split()[:1] for line in inside.stdout.splitlines()], name


def test_a_file_of_the_network_is_read_again_as_it_is_by_then(daemon: Daemon, blue: Path) -> None:
    allow(daemon, "net/tcp")

    def listens(text: bytes, port: int) -> bool:
        return b":%04X 00000000:0000 0A" % port in text

    with listen_inside("blue") as listener, daemon.connect() as broker, broker.file("name:blue", "net/tcp") as file:
        first = listener.getsockname()[1]
        assert listens(file.read(), first)
        with listen_inside("blue") as another:
            second = another.getsockname()[1]
            file.seek(0)
            assert listens(file.read(), second)
        file.seek(0)
        assert not listens(file.read(), second)
        # It works after the name of the network is gone, and after the broker has ended.
        subprocess.run(["ip", "netns", "del", "blue"], check=True)
        daemon.stop()
        file.seek(0)
        assert listens(file.read(), first)
        with pytest.raises(OSError, match="not open for writing"):
            file.write(b"x")
    subprocess.run(["ip", "netns", "add", "blue"], check=True)
    daemon.start()


def write_hole(path: Path, size: int) -> None:
    path.touch()
    os.truncate(path, size)


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


IMPOSTORS: dict[str, tuple[Callable[[Path], object], str]] = {
    "symlink": (lambda etc: (etc / "hosts").symlink_to("resolv.conf"), "symbolic link"),
    "link out of the root": (lambda etc: (etc / "hosts").symlink_to("/proc/1/root/etc/shadow"), "symbolic link"),
    "link to a magic link": (lambda etc: (etc / "hosts").symlink_to("/proc/self/fd/0"), "symbolic link"),
    "FIFO": (lambda etc: os.mkfifo(etc / "hosts"), "no regular file"),
    "folder": (lambda etc: (etc / "hosts").mkdir(), "no regular file"),
    "socket": (lambda etc: bind(etc / "hosts"), "no regular file"),
    "device": (lambda etc: os.mknod(etc / "hosts", 0o666 | stat.S_IFCHR, os.makedev(1, 5)), "no regular file"),
    "one gigabyte": (lambda etc: write_hole(etc / "hosts", 2**30), "more than 65536 bytes"),
    "nothing": (lambda etc: None, "no such file"),
}


@pytest.mark.parametrize("kind", IMPOSTORS)
def test_what_is_no_small_regular_file_is_a_clear_error(daemon: Daemon, room: tuple[str, Path], kind: str) -> None:
    target, etc = room
    prepare, message = IMPOSTORS[kind]
    prepare(etc)
    allow(daemon, "hosts")
    for who in (0, ALICE):
        error = as_user(who, opened(daemon, target, "hosts"))
        assert str(error).startswith(f"NoSuchFile: cannot open the file hosts of {target}"), error
        assert message in str(error)


@pytest.fixture
def secret() -> Iterator[Path]:
    """A file that only root may read, also as one of root's group."""
    path = Path("/run/secret")
    path.write_text("the secret\n")
    path.chmod(0o640)
    yield path
    path.unlink()


def test_a_file_that_the_caller_may_not_read_is_not_read_for_the_caller(
    daemon: Daemon, room: tuple[str, Path], secret: Path
) -> None:
    """Whoever controls the target's mounts can put any file there."""
    target, etc = room
    allow(daemon, "*")
    (etc / "hosts").touch()
    mount_inside(target, "--bind", str(secret), "/etc/hosts")
    assert "your user may not read it" in str(as_user(ALICE, opened(daemon, target, "hosts")))
    secret.chmod(0o604)
    assert as_user(ALICE, opened(daemon, target, "hosts")) == b"the secret\n"
    # A group of the caller's counts, too.
    secret.chmod(0o640)
    os.chown(secret, 0, 4711)

    def ask() -> bytes | str:
        return opened(daemon, target, "hosts")()

    assert as_user(ALICE, ask, groups=[4711]) == b"the secret\n"
    assert "may not read it" in str(as_user(ALICE, ask))


def test_a_file_of_the_brokers_own_in_proc_is_not_read(daemon: Daemon, room: tuple[str, Path]) -> None:
    """The kernel lets the broker read its own memory map, as whichever user its thread acts."""
    target, etc = room
    allow(daemon, "*")
    (etc / "hosts").touch()
    mount_inside(target, "--bind", f"/proc/{daemon.pid}/maps", "/etc/hosts")
    for who in (0, ALICE):
        assert "it is a file of /proc" in str(as_user(who, opened(daemon, target, "hosts")))


def test_own_processes_need_no_rule_and_give_nothing_that_the_user_may_not_read(daemon: Daemon, secret: Path) -> None:
    with Sleeper(unshare="--net --mount --propagation private", uid=ALICE) as process:
        target = f"pid:{process.pid}"
        mount_inside(target, "-t", "tmpfs", "-o", "mode=755", "etc", "/etc")
        (Path(f"/proc/{process.pid}/root/etc") / "hosts").write_text("127.0.0.1 localhost\n")
        assert as_user(ALICE, opened(daemon, target, "hosts")) == b"127.0.0.1 localhost\n"
        found = as_user(ALICE, opened(daemon, target, "net/dev"))
        assert isinstance(found, bytes)
        assert b"lo:" in found
        mount_inside(target, "--bind", str(secret), "/etc/hosts")
        assert "may not read it" in str(as_user(ALICE, opened(daemon, target, "hosts")))
        for name in ("hosts", "net/dev"):
            assert str(as_user(BOB, opened(daemon, target, name))).startswith("PermissionDenied")


def test_a_namespace_alone_has_files_of_its_network_only(daemon: Daemon) -> None:
    with daemon.connect() as broker, named_network("red"):
        broker.file("name:red", "net/dev").close()
        for name in CONFIGURATION:
            with pytest.raises(NoSuchTarget, match="a namespace alone has no files"):
                broker.file("name:red", name)
        with pytest.raises(NoSuchTarget):
            broker.file(f"pid:{2**22 - 3}", "hosts")


def test_a_process_that_ends_meanwhile_is_no_target(daemon: Daemon, room: tuple[str, Path]) -> None:
    os.kill(int(room[0].removeprefix("pid:")), signal.SIGKILL)
    with daemon.connect() as broker:
        for name in ("resolv.conf", "net/dev"):
            with pytest.raises((NoSuchTarget, PermissionDenied)):
                broker.file(room[0], name)


@pytest.fixture
def hung(room: tuple[str, Path]) -> Iterator[Callable[[], None]]:
    """A file system in the place of the room's /etc, on which every lookup blocks until the file system is aborted."""
    with hung_file_system(room[0], "/etc", ",allow_other") as abort:
        yield abort


def test_a_file_system_that_never_answers_delays_only_its_own_user(
    tmp_path: Path, room: tuple[str, Path], hung: Callable[[], None]
) -> None:
    target, _ = room
    deadline = 0.5 * SLOWNESS
    with Daemon(tmp_path, limits=f"device-deadline = {deadline}") as daemon:
        allow(daemon, "*")
        before = daemon.snapshot()
        for _ in range(2):
            assert "did not answer in time" in str(as_user(ALICE, opened(daemon, target, "hosts")))
        # As long as two threads are stuck on the target, further calls for it fail at once.
        start = time.monotonic()
        for _ in range(20):
            assert "did not answer in time" in str(as_user(ALICE, opened(daemon, target, "hosts")))
        assert time.monotonic() - start < 20 * deadline / 2
        with daemon.connect() as broker:
            # Others, and what needs no file system, are served as always.
            broker.file(target, "net/dev").close()
            broker.open(target, "net").close()
            with pytest.raises(NoSuchFile, match="did not answer in time"):
                broker.file(target, "hosts")
        hung()
        # The file system is gone by now, or refuses everything.
        eventually(
            lambda: "did not answer" not in str(as_user(ALICE, opened(daemon, target, "hosts"))), "the threads are free again"
        )
        daemon.settles_at(before)


def test_many_files_leave_nothing_behind(daemon: Daemon, room: tuple[str, Path]) -> None:
    target, etc = room
    (etc / "hosts").mkdir()
    with daemon.connect() as broker:
        # This hands over nothing, so the broker has nothing left to close.
        broker.who_am_i()
        before = daemon.snapshot()
        for _ in range(50):
            broker.file(target, "resolv.conf").close()
            broker.file(target, "net/udp").close()
            with pytest.raises(NoSuchFile):
                broker.file(target, "hosts")
        daemon.settles_at(before)
