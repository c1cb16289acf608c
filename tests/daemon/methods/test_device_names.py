"""ListDevices called with `more`: every name below /dev, for those who may open every device."""

import os
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from nsbroker.client.blocking import Broker, connect
from nsbroker.errors import NoSuchDevice
from tests.daemon.methods.restricting import needs_proven_root
from tests.daemon.test_dispatcher import call
from tests.world import ALICE, Daemon, Sleeper, as_user

pytestmark = pytest.mark.root


@pytest.fixture
def room() -> Iterator[tuple[str, Path]]:
    """A process with its own /dev, which has one file of each kind.  Yields its target, and the path of its /dev from here."""
    with Sleeper(unshare="--net --mount --propagation private") as process:
        inside = ["nsenter", "--mount", "--target", str(process.pid)]
        subprocess.run([*inside, "mount", "-t", "tmpfs", "-o", "mode=755", "dev", "/dev"], check=True)
        dev = Path(f"/proc/{process.pid}/root/dev")
        (dev / "net").mkdir()
        (dev / "empty").mkdir()
        os.mknod(dev / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(dev / "net/tun", 0o666 | stat.S_IFCHR, os.makedev(10, 200))
        os.mknod(dev / "sda", 0o600 | stat.S_IFBLK, os.makedev(8, 0))
        os.mkfifo(dev / "initctl")
        (dev / "notes").touch()
        (dev / "fd").symlink_to("/proc/self/fd")
        (dev / "loop").symlink_to(".")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(dev / "log"))
        yield f"pid:{process.pid}", dev


ALL = {
    "empty": "directory",
    "fd": "link",
    "initctl": "fifo",
    "log": "socket",
    "loop": "link",
    "net": "directory",
    "net/tun": "device",
    "notes": "file",
    "null": "device",
    "sda": "block",
}


def names(broker: Broker, target: str) -> dict[str, str]:
    return {one.name: str(one.kind) for one in broker.device_names(target)}


def names_of(daemon: Daemon, target: str) -> Callable[[], dict[str, str]]:
    def ask() -> dict[str, str]:
        with connect(daemon.address) as broker:
            return names(broker, target)

    return ask


def test_every_name_below_dev_is_listed_for_whom_a_rule_allows_every_device(daemon: Daemon, room: tuple[str, Path]) -> None:
    target, _ = room
    with daemon.connect() as broker:
        found = broker.device_names(target)
        assert {one.name: one.kind for one in found} == ALL
        assert [one.name for one in found] == sorted(ALL)
        assert [device.name for device in broker.devices(target)] == ["net/tun", "null"]
    daemon.allow("all", who=[f"user:{ALICE}"], targets=["pid:*"], devices=["*"])
    assert as_user(ALICE, names_of(daemon, target)) == ALL


def test_others_see_only_the_devices_that_their_rules_name(daemon: Daemon, room: tuple[str, Path]) -> None:
    target, _ = room
    daemon.allow("some", who=[f"user:{ALICE}"], targets=["pid:*"], devices=["null", "zero"])
    assert as_user(ALICE, names_of(daemon, target)) == {"null": "device"}
    daemon.allow("none", who=[f"user:{ALICE}"], targets=["name:*"], devices=["*"])
    assert as_user(ALICE, names_of(daemon, target)) == {"null": "device"}


def test_a_rule_for_every_device_of_a_process_of_ones_own_is_enough(daemon: Daemon) -> None:
    daemon.allow("devices", who="everyone", targets=["own"], devices=["*"])
    with Sleeper(uid=ALICE) as process:
        assert as_user(ALICE, names_of(daemon, f"pid:{process.pid}"))["null"] == "device"


@needs_proven_root
def test_a_restricted_connection_sees_what_it_kept(daemon: Daemon, room: tuple[str, Path]) -> None:
    target, _ = room
    with daemon.connect() as broker:
        broker.restrict([target], devices=["*"])
        assert names(broker, target) == ALL
        broker.restrict([target], devices=["null", "sda=8:0"])
        assert names(broker, target) == {"null": "device"}


def test_a_single_reply_has_no_names(daemon: Daemon, room: tuple[str, Path]) -> None:
    reply = call(daemon, "io.nsbroker.Broker.ListDevices", {"target": {"pid": int(room[0].removeprefix("pid:"))}})
    assert sorted(reply["parameters"]) == ["devices"]


def test_names_that_are_no_text_are_listed_as_escapes(daemon: Daemon, room: tuple[str, Path]) -> None:
    target, dev = room
    (Path(os.fsdecode(os.fsencode(dev) + b"/\xff\xfe"))).touch()
    (dev / "\x1b[2J").touch()
    with daemon.connect() as broker:
        found = names(broker, target)
        assert found["\\xff\\xfe"] == found["\x1b[2J"] == "file"
        with broker.at(target) as folder:
            assert "\\xff\\xfe" in folder.listdir()


def test_a_list_of_any_length_arrives_whole_and_too_many_names_are_an_error(daemon: Daemon, room: tuple[str, Path]) -> None:
    target, dev = room
    # The replies for these are several times as long as one message may be.
    many = [f"{number:04}-{'x' * 200}" for number in range(2000)]
    for name in many:
        os.mknod(dev / name, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    with daemon.connect() as broker:
        assert set(names(broker, target)) == {*ALL, *many}
        assert {device.name for device in broker.devices(target)} == {"null", "net/tun", *many}
        for number in range(9000):
            (dev / f"y{number}").touch()
        with pytest.raises(NoSuchDevice, match=r"cannot list the devices of .* more files than"):
            broker.device_names(target)


def test_folders_are_listed_four_levels_deep_and_nothing_is_opened(daemon: Daemon, room: tuple[str, Path]) -> None:
    target, dev = room
    (dev / "a/b/c/d/e").mkdir(parents=True)
    (dev / "a/b/c/d/e/f").touch()
    with daemon.connect() as broker:
        found = names(broker, target)
    assert found["a/b/c/d"] == "directory"
    assert not any(name.startswith("a/b/c/d/") for name in found)
    # Opening the reading end of a fifo would wait; opening its writing end without a reader fails.  Links lead nowhere.
    assert not any(name.startswith(("fd/", "loop/")) for name in found)


def test_the_record_of_a_refused_list_is_that_of_a_refused_device(daemon: Daemon, room: tuple[str, Path]) -> None:
    target, _ = room
    pid = int(target.removeprefix("pid:"))

    def ask() -> bytes:
        with daemon.raw() as sock:
            message = {"method": "io.nsbroker.Broker.ListDevices", "parameters": {"target": {"pid": pid}}, "more": True}
            sock.send(msgspec.json.encode(message) + b"\0")
            return sock.recv(1000)

    assert msgspec.json.decode(as_user(ALICE, ask).rstrip(b"\0")) == {
        "error": "org.varlink.service.PermissionDenied",
        "parameters": {},
    }
    assert daemon.records()[-1]["verdict"] == "denied"
