"""ListDevices and OpenDevice: devices below a container's /dev, and only if they are what their names say."""

import fcntl
import os
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest
import trio

from nsbroker.client.blocking import connect
from nsbroker.daemon.methods.authorization import Authorization
from nsbroker.daemon.policy.grants import Verdict
from nsbroker.daemon.policy.permission import Permission
from nsbroker.errors import InvalidParameter, NoSuchDevice, NoSuchTarget, NsbrokerError, PermissionDenied
from nsbroker.protocol.messages import ListDevicesReply
from nsbroker.varlink.connection import IncomingCall
from nsbroker.varlink.message import decode_call
from tests.daemon.methods.hung import hung_file_system
from tests.daemon.one_caller import OneCaller
from tests.daemon.test_dispatcher import call
from tests.world import ALICE, BOB, SLOWNESS, Daemon, Sleeper, as_user, eventually, named_network

pytestmark = pytest.mark.root


@pytest.fixture
def room() -> Iterator[tuple[str, Path]]:
    """A process with its own /dev, which contains only null.  Yields its target, and the path of its /dev from here."""
    with Sleeper(unshare="--net --mount --propagation private") as process:
        inside = ["nsenter", "--mount", "--target", str(process.pid)]
        subprocess.run([*inside, "mount", "-t", "tmpfs", "-o", "mode=755", "dev", "/dev"], check=True)
        dev = Path(f"/proc/{process.pid}/root/dev")
        make(dev / "null", 1, 3)
        yield f"pid:{process.pid}", dev


def make(path: Path, major: int, minor: int, kind: int = stat.S_IFCHR) -> None:
    path.parent.mkdir(exist_ok=True)
    os.mknod(path, 0o600 | kind, os.makedev(major, minor))


def allow(daemon: Daemon, *devices: str, who: int = ALICE) -> None:
    daemon.allow("devices", who=[f"user:{who}"], targets=["pid:*"], devices=list(devices))


def opened(daemon: Daemon, target: str, name: str, flags: int = os.O_RDWR) -> Callable[[], str]:
    """Return a function that opens a device, and returns its numbers, or the error as text."""

    def ask() -> str:
        with connect(daemon.address) as broker:
            try:
                with broker.device(target, name, flags) as file:
                    facts = os.fstat(file.fileno())
                    assert stat.S_ISCHR(facts.st_mode)
                    return f"{os.major(facts.st_rdev)}:{os.minor(facts.st_rdev)}"
            except NsbrokerError as error:
                return f"{type(error).__name__}: {error}"

    return ask


def test_a_device_is_opened_by_its_name_below_dev(daemon: Daemon, room: tuple[str, Path]) -> None:
    target, dev = room
    make(dev / "net/tun", 10, 200)
    allow(daemon, "null", "net/tun")
    assert as_user(ALICE, opened(daemon, target, "null")) == "1:3"
    assert as_user(ALICE, opened(daemon, target, "net/tun")) == "10:200"
    assert as_user(BOB, opened(daemon, target, "null")).startswith("PermissionDenied")
    record = [record for record in daemon.records() if record["method"] == "OpenDevice"][1]
    assert (record["wanted"], record["verdict"], record["rule"]) == ("device net/tun readWrite (10:200)", "allowed", "devices")


def test_only_devices_that_may_be_opened_are_listed(daemon: Daemon, room: tuple[str, Path]) -> None:
    target, dev = room
    make(dev / "net/tun", 10, 200)
    make(dev / "zero", 1, 5)
    make(dev / "kvm", 1, 1)
    make(dev / "sda", 8, 0, stat.S_IFBLK)
    (dev / "link").symlink_to("null")
    (dev / "folder").mkdir()
    (dev / "odd name").touch()

    def names() -> list[str]:
        with connect(daemon.address) as broker:
            return [device.name for device in broker.devices(target)]

    assert names() == ["net/tun", "null", "zero"]
    allow(daemon, "null", "kvm", "full")
    assert as_user(ALICE, names) == ["null"]
    with pytest.raises(AssertionError, match=r"PermissionDenied: list the devices of .* lets you have devices there"):
        as_user(BOB, names)


def test_a_device_is_open_for_what_was_asked_for(daemon: Daemon, room: tuple[str, Path]) -> None:
    target, _ = room
    with daemon.connect() as broker:
        for mode in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
            with broker.device(target, "null", mode) as file:
                flags = fcntl.fcntl(file, fcntl.F_GETFL)
                assert flags & os.O_ACCMODE == mode
                assert not flags & (os.O_APPEND | os.O_NONBLOCK | os.O_DIRECT | os.O_PATH)
                assert fcntl.fcntl(file, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        with broker.device(target, "null") as file, pytest.raises(OSError, match="not open for writing"):
            file.write(b"x")
        with pytest.raises(ValueError, match="cannot open a device with the flags"):
            broker.device(target, "null", 3)
    reply = call(daemon, "io.nsbroker.Broker.OpenDevice", {"target": {"self": True}, "name": "null", "access": "append"})
    assert reply["parameters"] == {"parameter": "access"}


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def link_a_folder(dev: Path) -> None:
    make(dev / "real/tun", 10, 200)
    (dev / "net").symlink_to("real")


IMPOSTORS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "symlink": ("kvm", lambda dev: (dev / "kvm").symlink_to("null"), "symbolic link"),
    "symlink to a folder": ("net/tun", link_a_folder, "symbolic link"),
    "link out of the root": ("net/tun", lambda dev: (dev / "net").symlink_to("/proc/1/root/dev/net"), "symbolic link"),
    "FIFO": ("kvm", lambda dev: os.mkfifo(dev / "kvm"), "no character device"),
    "directory": ("kvm", lambda dev: (dev / "kvm").mkdir(), "no character device"),
    "regular file": ("kvm", lambda dev: (dev / "kvm").touch(), "no character device"),
    "socket": ("kvm", lambda dev: bind(dev / "kvm"), "no character device"),
    "block device": ("kvm", lambda dev: make(dev / "kvm", 10, 232, stat.S_IFBLK), "no character device"),
    "another device": ("kvm", lambda dev: make(dev / "kvm", 1, 1), "device 1:1, not the one"),
    "nothing": ("kvm", lambda dev: None, "no such file"),
    "a file on the way": ("null/kvm", lambda dev: None, "no such file"),
}


@pytest.mark.parametrize("kind", IMPOSTORS)
def test_a_file_that_is_not_the_device_of_that_name_is_never_opened(daemon: Daemon, room: tuple[str, Path], kind: str) -> None:
    target, dev = room
    name, prepare, message = IMPOSTORS[kind]
    prepare(dev)
    allow(daemon, "kvm", "net/tun", "null/kvm=10:232")
    for who in (0, ALICE):
        # Opening it does not wait: that would be another message, after the deadline.
        assert message in as_user(who, opened(daemon, target, name))


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../mem", "net/../mem", "/dev/null", "null/", "//null", "nu\0ll", "a\nb", "a b", "x" * 256,
        "/".join("abcdefghij"),
    ],
)  # fmt: skip
def test_an_invalid_name_is_a_bad_parameter(daemon: Daemon, room: tuple[str, Path], name: str) -> None:
    with daemon.connect() as broker, pytest.raises(InvalidParameter, match="name"):
        broker.device(room[0], name)


def test_a_device_without_a_driver_and_one_on_a_closed_file_system_say_so(daemon: Daemon, room: tuple[str, Path]) -> None:
    target, dev = room
    make(dev / "odd", 4000, 17)
    pid = target.removeprefix("pid:")
    (dev / "closed").mkdir()
    subprocess.run(["nsenter", "--mount", "--target", pid, "mount", "-t", "tmpfs", "-o", "nodev", "x", "/dev/closed"], check=True)
    make(dev / "closed/null", 1, 3)
    with daemon.connect() as broker:
        with pytest.raises(NoSuchDevice, match="no driver"):
            broker.device(target, "odd")
        with pytest.raises(NoSuchDevice, match="devices are not allowed"):
            broker.device(target, "closed/null")


def test_a_target_that_is_missing_or_has_no_dev_is_an_error(daemon: Daemon) -> None:
    with daemon.connect() as broker, named_network("red"):
        for ask in (lambda target: broker.device(target, "null"), broker.devices):
            with pytest.raises(NoSuchTarget, match="a namespace alone has no files and devices"):
                ask("name:red")
            with pytest.raises(NoSuchTarget):
                ask(f"pid:{2**22 - 3}")


def test_a_terminal_never_becomes_the_daemons_controlling_terminal(tmp_path: Path, room: tuple[str, Path]) -> None:
    """The daemon leads a session here, so a terminal that it opened without O_NOCTTY would become its controlling terminal."""
    target, dev = room
    pid = target.removeprefix("pid:")
    with Daemon(tmp_path, prefix=["setsid"]) as daemon:
        (dev / "pts").mkdir()
        mount = ["mount", "-t", "devpts", "-o", "newinstance,ptmxmode=0666", "devpts", "/dev/pts"]
        subprocess.run(["nsenter", "--mount", "--target", pid, *mount], check=True)
        with daemon.connect() as broker, broker.device(target, "pts/ptmx", os.O_RDWR) as master:
            fcntl.ioctl(master, 0x40045431, bytes(4))  # TIOCSPTLCK: unlock
            with broker.device(target, "pts/0", os.O_RDWR) as terminal:
                assert os.isatty(terminal.fileno())
                assert Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()[4] == "0"


@pytest.fixture
def hung(room: tuple[str, Path]) -> Iterator[Callable[[], None]]:
    """A file system at /dev/slow in the room, on which every lookup blocks until the file system is aborted."""
    target, dev = room
    (dev / "slow").mkdir()
    with hung_file_system(target, "/dev/slow") as abort:
        yield abort


def test_a_file_system_that_never_answers_delays_only_its_own_user(
    tmp_path: Path, room: tuple[str, Path], hung: Callable[[], None]
) -> None:
    target, _ = room
    deadline = 0.3 * SLOWNESS
    with Daemon(tmp_path, limits=f"device-deadline = {deadline}") as daemon:
        allow(daemon, "slow/null=1:3", "null")
        before = daemon.snapshot()
        for _ in range(2):
            assert "did not answer in time" in as_user(ALICE, opened(daemon, target, "slow/null"))
        # As long as two threads are stuck on the target, further calls for it fail at once.
        start = time.monotonic()
        for _ in range(20):
            assert "did not answer in time" in as_user(ALICE, opened(daemon, target, "slow/null"))
        assert time.monotonic() - start < 20 * deadline / 2
        # Other users are served as always.
        with daemon.connect() as broker:
            broker.device(target, "null").close()
            broker.open(target, "net").close()
            with pytest.raises(NoSuchDevice, match="did not answer in time"):
                broker.devices(target)
        hung()
        eventually(lambda: as_user(ALICE, opened(daemon, target, "null")) == "1:3", "the threads are free again")
        daemon.settles_at(before)


def test_a_process_that_ends_meanwhile_is_no_target(daemon: Daemon, room: tuple[str, Path]) -> None:
    target, _ = room
    os.kill(int(target.removeprefix("pid:")), 9)
    with daemon.connect() as broker, pytest.raises((NoSuchTarget, PermissionDenied)):
        broker.device(target, "null")


def test_too_many_files_are_an_error_and_not_a_truncated_list(daemon: Daemon, room: tuple[str, Path]) -> None:
    target, dev = room
    for number in range(10_001):
        (dev / str(number)).touch()
    with daemon.connect() as broker, pytest.raises(NoSuchDevice, match=r"cannot list the devices of .* more files than"):
        broker.devices(target)


def test_one_connection_serves_any_container_and_closing_it_leaves_nothing_behind(daemon: Daemon, room: tuple[str, Path]) -> None:
    """In other designs, each container needs its own client."""
    target, _ = room
    before = daemon.snapshot()
    with daemon.connect() as broker, Sleeper(unshare="--mount") as other:
        files = [broker.device(each, "null") for each in (target, f"pid:{other.pid}") for _ in range(20)]
        with pytest.raises(NoSuchTarget):
            broker.device(f"pid:{2**22 - 3}", "null")
    for file in files:
        assert file.read(1) == b""
        file.close()
    daemon.settles_at(before)


async def test_others_are_served_while_many_devices_are_decided_on(
    room: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, dev = room
    for number in range(300):
        make(dev / f"tty{number}", 4, number)
    one = OneCaller(tmp_path, '[[allow]]\nname = "a"\nwho = "everyone"\ntargets = ["pid:*"]\ndevices = ["*"]\n')
    in_a_row, longest, decided = 0, 0, 0
    verdict_on = Authorization.verdict_on

    def count(authorization: Authorization, wanted: tuple[Permission, ...]) -> Verdict:
        nonlocal in_a_row, longest, decided
        decided += 1
        in_a_row += 1
        longest = max(longest, in_a_row)
        return verdict_on(authorization, wanted)

    async def watch() -> None:
        """Take a turn whenever there is one."""
        nonlocal in_a_row
        while True:
            await trio.lowlevel.checkpoint()
            in_a_row = 0

    monkeypatch.setattr(Authorization, "verdict_on", count)
    data = b'{"method":"io.nsbroker.Broker.ListDevices","parameters":{"target":{"pid":%d}}}' % int(target.removeprefix("pid:"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        pending = one.dispatcher.dispatch(one.caller, IncomingCall(decode_call(data), []))
        assert isinstance(pending, Coroutine)
        reply = (await pending).parameters
        nursery.cancel_scope.cancel()
    assert isinstance(reply, ListDevicesReply)
    assert len(reply.devices) == 301
    assert decided > 300
    one.close()
    # Trio lets the tasks that are ready take their turns in any order, so one can have two in a row.
    assert longest <= 130


async def test_a_file_that_is_refused_is_closed_on_a_thread(
    room: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be the last one of a file system that was unmounted with MNT_DETACH (umount2(2)), which then ends with it."""
    target, dev = room
    (dev / "zero").touch()
    one = OneCaller(tmp_path, '[[allow]]\nname = "a"\nwho = "everyone"\ntargets = ["pid:*"]\ndevices = ["zero"]\n')
    threads = []
    close = os.close

    def note(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        close(fd)
        if path.endswith("/zero"):
            threads.append(threading.get_native_id())

    monkeypatch.setattr(os, "close", note)
    parameters = b'{"target":{"pid":%d},"name":"zero","access":"readWrite"}' % int(target.removeprefix("pid:"))
    data = b'{"method":"io.nsbroker.Broker.OpenDevice","parameters":%b}' % parameters
    reply = one.dispatcher.dispatch(one.caller, IncomingCall(decode_call(data), []))
    assert isinstance(reply, Coroutine)
    assert (await reply).error == "io.nsbroker.Broker.NoSuchDevice"
    eventually(lambda: len(threads) == 1, "it is closed")
    assert threads != [threading.get_native_id()]
    one.close()
