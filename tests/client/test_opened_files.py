"""Files that the broker opens, with every client, and brokers that send something else."""

import os
import socket
from collections.abc import Callable

import pytest

from nsbroker.errors import ProtocolError
from nsbroker.linux import ancillary
from nsbroker.model.target_file import NAMES
from nsbroker.protocol.messages import TEXT
from tests.client.every_client import CLIENTS, impostor_elsewhere, read_call
from tests.world import Daemon, Sleeper

REPLY = b'{"parameters":{"fileFileDescriptor":0}}\0'


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_file_is_binary_and_can_be_read_again(client: str, daemon: Daemon, sleeper: Sleeper) -> None:
    async with CLIENTS[client](daemon.address) as broker:
        with await broker.file(f"pid:{sleeper.pid}", "net/dev") as file:
            first = file.read()
            file.seek(0)
            assert file.read() == first
            assert b"lo:" in first
            assert not os.get_inheritable(file.fileno())


def opening(path: str, flags: int) -> Callable[[], int]:
    return lambda: os.open(path, flags)


WRONG: dict[str, tuple[Callable[[], int], str]] = {
    "a folder": (opening("/", os.O_RDONLY), "no regular file"),
    "a device": (opening("/dev/null", os.O_RDONLY), "no regular file"),
    "a path alone": (opening("/etc/passwd", os.O_PATH), "not open for reading alone"),
    "a file for writing": (lambda: os.memfd_create("x", os.MFD_CLOEXEC), "not open for reading alone"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("client", CLIENTS)
async def test_anything_else_than_a_file_for_reading_is_closed(client: str, kind: str) -> None:
    make, message = WRONG[kind]

    def behave(sock: socket.socket) -> None:
        while read_call(sock):
            fd = make()
            ancillary.send(sock, REPLY, [fd])
            os.close(fd)

    with impostor_elsewhere(behave) as address:
        async with CLIENTS[client](address) as broker:
            before = len(os.listdir("/proc/self/fd"))
            with pytest.raises(ProtocolError, match=message):
                await broker.file("self", "hosts")
            assert len(os.listdir("/proc/self/fd")) <= before


def sparse(size: int) -> int:
    """Return an fd of a file in memory that has `size` zero bytes, and takes no memory for them."""
    writing = os.memfd_create("sparse", os.MFD_CLOEXEC)
    os.truncate(writing, size)
    fd = os.open(f"/proc/self/fd/{writing}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(writing)
    return fd


def send_files(size: int) -> Callable[[socket.socket], None]:
    """Return how a fake broker behaves that opens such a file for every call.  The real one sends at most 65536 bytes."""

    def behave(sock: socket.socket) -> None:
        while read_call(sock):
            fd = sparse(size)
            ancillary.send(sock, REPLY, [fd])
            os.close(fd)

    return behave


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_configuration_that_is_larger_than_any_of_the_broker_is_not_read(client: str) -> None:
    # Nobody has memory for all of it, so that reading it all would fail in another way.
    with impostor_elsewhere(send_files(2**40)) as address:
        async with CLIENTS[client](address) as broker:
            before = len(os.listdir("/proc/self/fd"))
            with pytest.raises(ProtocolError, match="more than 65536 bytes"):
                await broker.create_connection("self", ("web.test", 80), resolve="inside")
            assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("client", CLIENTS)
async def test_the_largest_configuration_is_read(client: str) -> None:
    with impostor_elsewhere(send_files(65536)) as address:
        async with CLIENTS[client](address) as broker:
            # Both files were read.  Then a socket is asked for, to which such a broker has no answer.
            with pytest.raises(ProtocolError, match="open a socket"):
                await broker.create_connection("self", ("web.test", 80), resolve="inside")


def test_the_names_of_files_in_the_interface_are_those_that_the_code_has() -> None:
    described = TEXT.read_text().partition("# Opens a file of `target`")[2].partition("method OpenFile")[0]
    assert [name for name in NAMES if name not in described] == []
