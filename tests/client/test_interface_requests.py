"""Interfaces through every client."""

import fcntl
import os
import socket
import stat
from collections.abc import Iterator

import pytest

from nsbroker.errors import InvalidTarget
from nsbroker.model.target import Target
from nsbroker.namespace import Namespace
from tests.client.every_client import CLIENTS, impostor, read_call
from tests.world import Daemon, Sleeper


def names(pid: int) -> list[str]:
    with Namespace.from_pid(pid, "net") as ns:
        return [name for _, name in ns.call(socket.if_nameindex) if name in ("eth0", "lab0", "tap0")]


@pytest.fixture
def other() -> Iterator[Sleeper]:
    with Sleeper(unshare="--net") as process:
        yield process


@pytest.mark.root
@pytest.mark.parametrize("client", CLIENTS)
async def test_each_client_adds_a_veth(client: str, daemon: Daemon, sleeper: Sleeper, other: Sleeper) -> None:
    async with CLIENTS[client](daemon.address) as broker:
        assert await broker.add_veth(f"pid:{sleeper.pid}", "eth0", f"pid:{other.pid}", "lab0") is None
    assert (names(sleeper.pid), names(other.pid)) == (["eth0"], ["lab0"])


@pytest.mark.root
@pytest.mark.parametrize("client", CLIENTS)
async def test_pidfds_are_given_in_any_order(client: str, daemon: Daemon, sleeper: Sleeper, other: Sleeper) -> None:
    fds = [os.pidfd_open(process.pid) for process in (sleeper, other)]
    try:
        async with CLIENTS[client](daemon.address) as broker:
            await broker.add_veth(Target.pidfd(fds[1]), "lab0", Target.pidfd(fds[0]), "eth0")
    finally:
        for fd in fds:
            os.close(fd)
    assert (names(sleeper.pid), names(other.pid)) == (["eth0"], ["lab0"])


@pytest.mark.root
@pytest.mark.parametrize("client", CLIENTS)
async def test_each_client_adds_a_tap_whose_file_is_the_callers(client: str, daemon: Daemon, sleeper: Sleeper) -> None:
    async with CLIENTS[client](daemon.address) as broker:
        file = await broker.add_tap(f"pid:{sleeper.pid}", "tap0")
    with file:
        assert names(sleeper.pid) == ["tap0"]
        assert stat.S_ISCHR(os.fstat(file.fileno()).st_mode)
        assert file.readable()
        assert file.writable()
        assert fcntl.fcntl(file, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_name_that_is_none_is_refused_before_anything_is_sent(client: str) -> None:
    calls: list[bytes] = []
    with impostor(lambda sock: calls.append(read_call(sock))) as address:
        await refuse_names(client, address)
    assert calls in ([], [b""])


async def refuse_names(client: str, address: str) -> None:
    async with CLIENTS[client](address) as broker:
        for name in ("", "a/b", "x" * 16, "all"):
            with pytest.raises(InvalidTarget, match="is no name of an interface: write 1 to 15 bytes"):
                await broker.add_tap("self", name)
            with pytest.raises(InvalidTarget, match="is no name of an interface"):
                await broker.add_veth("self", name, "self", "lab0")
            with pytest.raises(InvalidTarget, match="is no name of an interface"):
                await broker.add_veth("self", "eth0", "self", name)
