"""Clients that are made from a descriptor, and those that give theirs away."""

import os
import socket
import subprocess
import sys

import pytest

import nsbroker
import nsbroker.client.asyncio
import nsbroker.client.trio
from nsbroker.errors import ConnectionFailed, ConnectionLost, PermissionDenied
from nsbroker.linux.descriptors import is_open
from tests.client.every_client import CLIENTS, Connect
from tests.client.test_forking import in_child
from tests.world import Daemon


@pytest.fixture(params=CLIENTS)
def connect(request: pytest.FixtureRequest) -> Connect:
    return CLIENTS[request.param]


async def test_a_connection_is_taken_and_closed(connect: Connect, daemon: Daemon) -> None:
    fd = daemon.raw().detach()
    os.set_inheritable(fd, True)
    async with connect(None, fd=fd) as broker:
        assert not os.get_inheritable(fd)
        assert (await broker.who_am_i()).pid == os.getpid()
        (await broker.open("self", "net")).close()
    assert not is_open(fd)


async def test_the_address_of_the_environment_is_no_second_address(
    connect: Connect, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NSBROKER_ADDRESS", "unix:/run/nowhere")
    async with connect(None, fd=daemon.raw().detach()) as broker:
        await broker.who_am_i()


async def test_it_never_connects_again(connect: Connect, daemon: Daemon) -> None:
    fd = daemon.raw().detach()
    async with connect(None, fd=fd) as broker:
        await broker.restrict(["self"], namespaces=["net"])
        with pytest.raises(ConnectionLost, match=r"watch namespaces: .*made from a descriptor"):
            await broker.events()
        (await broker.open("self", "net")).close()
        daemon.stop()
        daemon.start()
        for _ in range(2):
            with pytest.raises(ConnectionLost, match=r"made from a descriptor.*make another client"):
                await broker.open("self", "net")
    assert [record["method"] for record in daemon.records()] == ["Restrict", "Open"]


async def test_an_address_and_a_descriptor_are_one_too_many(connect: Connect, daemon: Daemon) -> None:
    with daemon.raw() as sock:
        with pytest.raises(ValueError, match="either an address or a descriptor"):
            async with connect(daemon.address, fd=sock.fileno()):
                pass
        with pytest.raises(ValueError, match="timeout"):
            async with connect(None, fd=sock.fileno(), timeout=-1):
                pass
        assert is_open(sock.fileno()), "it is not taken then"


async def test_what_is_no_connection_is_refused_and_closed(connect: Connect) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")
    listener.listen()
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with socket.create_server(("127.0.0.1", 0)) as server:
        tcp = socket.create_connection(server.getsockname())
    read, write = os.pipe()
    wrong = [listener.detach(), pair[0].detach(), tcp.detach(), socket.socket(socket.AF_UNIX).detach(), read]
    for fd in wrong:
        with pytest.raises(ConnectionFailed, match=f"the descriptor {fd} is no connection to a broker"):
            async with connect(None, fd=fd):
                pass
        assert not is_open(fd)
    with pytest.raises(ConnectionFailed, match="the descriptor -1 is no connection to a broker"):
        async with connect(None, fd=-1):
            pass
    pair[1].close()
    os.close(write)


def test_a_forked_child_has_no_connection(daemon: Daemon) -> None:
    with nsbroker.connect(fd=daemon.raw().detach()) as broker:
        assert in_child(broker.who_am_i).startswith("ConnectionLost: ask who I am: ")
        assert broker.who_am_i().pid == os.getpid()


async def test_a_connection_is_given_away_with_its_restriction(connect: Connect, daemon: Daemon) -> None:
    async with connect(daemon.address) as broker:
        await broker.restrict(["self"], namespaces=["net"])
        fd = await broker.detach()
        assert not os.get_inheritable(fd)
        with pytest.raises(ConnectionLost, match="closed; connect again"):
            await broker.who_am_i()
        with pytest.raises(ConnectionLost, match="connect again"):
            await broker.detach()
    code = """
import sys, nsbroker
with nsbroker.connect(fd=int(sys.argv[1])) as broker:
    broker.open("self", "net").close()
    try:
        broker.open("self", "uts")
    except nsbroker.errors.PermissionDenied as error:
        print("this connection is restricted" in str(error))
"""
    done = subprocess.run([sys.executable, "-c", code, str(fd)], pass_fds=[fd], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr
    async with connect(None, fd=fd) as broker:
        with pytest.raises(ConnectionLost):
            # The other process has closed the connection.
            await broker.who_am_i()


async def test_a_connection_that_has_ended_is_not_given_away(connect: Connect, daemon: Daemon) -> None:
    async with connect(daemon.address) as broker:
        daemon.stop()
        with pytest.raises(ConnectionFailed):
            await broker.who_am_i()
        with pytest.raises(ConnectionLost, match="it has ended"):
            await broker.detach()


def test_a_child_of_a_restricted_parent_gets_nothing_back_with_the_descriptor(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        broker.restrict(["self"], namespaces=["net"])
        fd = broker.detach()
    with nsbroker.connect(fd=fd) as broker:
        broker.restrict(["*"], namespaces=["*"])
        with pytest.raises(PermissionDenied):
            broker.open("self", "uts")
