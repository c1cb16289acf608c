"""A client that is bound to one target: the folder of its devices."""

import os
import stat
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nsbroker
from nsbroker.errors import InvalidTarget, NoSuchDevice, NoSuchTarget, PermissionDenied
from nsbroker.model.target import Target
from tests.client.every_client import CLIENTS
from tests.world import ALICE, Daemon, Sleeper, as_user

pytestmark = pytest.mark.root


@pytest.fixture
def room() -> Iterator[Sleeper]:
    """A process with its own /dev, which contains null, zero, net/tun, a block device, a link, and an empty folder."""
    with Sleeper(unshare="--net --mount --propagation private") as process:
        inside = ["nsenter", "--mount", "--target", str(process.pid)]
        subprocess.run([*inside, "mount", "-t", "tmpfs", "-o", "mode=755", "dev", "/dev"], check=True)
        dev = Path(f"/proc/{process.pid}/root/dev")
        (dev / "net").mkdir()
        (dev / "empty").mkdir()
        for name, kind, major, minor in (
            ("null", stat.S_IFCHR, 1, 3),
            ("zero", stat.S_IFCHR, 1, 5),
            ("net/tun", stat.S_IFCHR, 10, 200),
            ("sda", stat.S_IFBLK, 8, 0),
        ):
            os.mknod(dev / name, 0o600 | kind, os.makedev(major, minor))
        (dev / "fd").symlink_to("/proc/self/fd")
        yield process


def finish(client: str, broker: Any) -> Callable[[Any], Awaitable[Any]]:
    """Return a function that finishes a call of the client: `at` itself is no call, but the methods of what it returns are."""

    async def wait(value: Any) -> Any:
        if client == "trio":
            return await value
        return broker._runner.run(value) if client == "asyncio" else value

    return wait


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_bound_client_lists_and_opens_the_devices_of_its_target(client: str, daemon: Daemon, room: Sleeper) -> None:
    async with CLIENTS[client](daemon.address) as broker:
        wait = finish(client, broker)
        with broker._broker.at(f"pid:{room.pid}") as dev:
            assert dev.name == f"pid:{room.pid}"
            # As os.listdir() does, it returns every name, whatever it is the name of.
            assert await wait(dev.listdir()) == ["empty", "fd", "net", "null", "sda", "zero"]
            assert await wait(dev.listdir("net")) == await wait(dev.listdir("net/")) == ["tun"]
            assert await wait(dev.listdir("empty")) == []
            for name in await wait(dev.listdir()):
                if name in ("empty", "fd", "net", "sda"):
                    with pytest.raises(NoSuchDevice):
                        await wait(dev.open(name))
                else:
                    with await wait(dev.open(name)) as file:
                        assert stat.S_ISCHR(os.fstat(file.fileno()).st_mode)
            with await wait(dev.open("net/tun", os.O_RDWR | os.O_NONBLOCK)) as tun:
                assert os.fstat(tun.fileno()).st_rdev == os.makedev(10, 200)
                assert not os.get_blocking(tun.fileno())
            for missing in ("nowhere", "null", "ne", "../dev", ".", "fd"):
                with pytest.raises(NoSuchDevice, match="no folder with that name"):
                    await wait(dev.listdir(missing))
            with pytest.raises(NoSuchDevice):
                await wait(dev.open("net/missing"))
            with pytest.raises(ValueError, match="O_TRUNC"):
                await wait(dev.open("null", os.O_TRUNC))


@pytest.mark.parametrize("client", CLIENTS)
async def test_once_closed_it_does_nothing_and_the_connection_and_the_files_stay(
    client: str, daemon: Daemon, room: Sleeper
) -> None:
    async with CLIENTS[client](daemon.address) as broker:
        wait = finish(client, broker)
        dev = broker._broker.at(f"pid:{room.pid}")
        file = await wait(dev.open("zero"))
        assert not dev.closed
        dev.close()
        dev.close()
        assert dev.closed
        assert file.read(2) == bytes(2)
        file.close()
        assert dev.name == f"pid:{room.pid}"
        with pytest.raises(ValueError, match=f"the devices of pid:{room.pid} are closed"):
            await wait(dev.listdir())
        with pytest.raises(ValueError, match="are closed"):
            await wait(dev.open("null"))
        assert (await broker.who_am_i()).uid == 0


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_client_bound_to_a_descriptor_means_that_very_process(client: str, daemon: Daemon, room: Sleeper) -> None:
    pidfd = os.pidfd_open(room.pid)
    async with CLIENTS[client](daemon.address) as broker:
        wait = finish(client, broker)
        with broker._broker.at(Target.pidfd(pidfd)) as dev:
            assert dev.name == "the process of a pidfd"
            assert await wait(dev.listdir("net")) == ["tun"]
            room.end()
            with pytest.raises(NoSuchTarget):
                await wait(dev.listdir())
    os.close(pidfd)


def test_a_target_that_cannot_be_meant_is_refused_at_once(daemon: Daemon) -> None:
    with daemon.connect() as broker, pytest.raises(InvalidTarget):
        broker.at("dcoker:web")


def test_it_shows_only_what_rules_allow(daemon: Daemon, room: Sleeper) -> None:
    daemon.allow("devices", who=[f"user:{ALICE}"], targets=["pid:*"], devices=["null"])

    def look() -> list[str]:
        with nsbroker.connect(daemon.address) as broker, broker.at(f"pid:{room.pid}") as dev:
            for folder in ("net", "empty", "fd"):
                with pytest.raises(NoSuchDevice, match="has anything for you"):
                    dev.listdir(folder)
            with pytest.raises(PermissionDenied):
                dev.open("zero")
            return dev.listdir()

    assert as_user(ALICE, look) == ["null"]
