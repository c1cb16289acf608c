"""All conduits (blocking, trio and asyncio), over every type of AF_UNIX socket."""

import contextlib
import fcntl
import os
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import nsbroker.conduit.asyncio
import nsbroker.conduit.trio
from nsbroker.conduit import Conduit
from nsbroker.errors import (
    ConduitClosed,
    DescriptorsLost,
    ForeignControlMessage,
    NoDescriptor,
    SeveralDescriptors,
    TransferFailed,
    UnusableTransport,
    WrongDescriptor,
)
from nsbroker.linux import ancillary
from nsbroker.linux.descriptors import is_open
from tests.conduit.on_asyncio import OnAsyncio
from tests.world import PATIENCE

TYPES = [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET]


class OnTrio:
    """The trio conduit with blocking methods, so that the same test serves both conduits."""

    def __init__(self, sock: socket.socket) -> None:
        self._conduit = nsbroker.conduit.trio.Conduit(sock)

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            with trio.fail_after(PATIENCE):
                return await getattr(self._conduit, name)(*arguments)

        if name in ("close", "closed"):
            return getattr(self._conduit, name)
        return lambda *arguments: trio.run(call, *arguments)


@pytest.fixture(params=TYPES, ids=lambda sock_type: sock_type.name)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair(socket.AF_UNIX, request.param)
    with left, right:
        left.settimeout(PATIENCE)
        right.settimeout(PATIENCE)
        yield left, right


@pytest.fixture(params=[Conduit, OnTrio, OnAsyncio], ids=["blocking", "trio", "asyncio"])
def form(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def ends(pair: tuple[socket.socket, socket.socket], form: Any) -> tuple[Any, Any]:
    return form(pair[0]), form(pair[1])


def null() -> int:
    return os.open(os.devnull, os.O_RDONLY)


def test_a_descriptor_goes_over_and_the_original_is_closed(ends: tuple[Any, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    os.set_inheritable(fd, True)
    ends[0].transfer_fd(fd)
    assert not is_open(fd)
    got = ends[1].receive_fd()
    assert os.read(got, 10) == b"hello"
    assert fcntl.fcntl(got, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    os.close(got)


def test_a_file_is_flushed_first_and_arrives_as_a_file(ends: tuple[Any, Any], tmp_path: Path) -> None:
    file = open(tmp_path / "file", "w+")  # noqa: SIM115 - it is given away
    file.write("hello")
    ends[0].transfer_file(file)
    assert file.closed
    with ends[1].receive_file("r") as got:
        got.seek(0)
        assert got.read() == "hello"


@pytest.mark.parametrize(
    ("family", "kind"),
    [(socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET6, socket.SOCK_DGRAM), (socket.AF_UNIX, socket.SOCK_SEQPACKET)],
)
def test_a_socket_arrives_and_knows_what_it_is(
    ends: tuple[Any, Any], family: socket.AddressFamily, kind: socket.SocketKind
) -> None:
    sock = socket.socket(family, kind)
    ends[0].transfer_socket(sock)
    assert sock.fileno() == -1
    with ends[1].receive_socket() as got:
        assert (got.family, got.type) == (family, kind)


def test_several_descriptors_in_a_row_arrive_separately_and_in_order(ends: tuple[Any, Any], tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / str(number)).write_text(str(number))
        ends[0].transfer_fd(os.open(tmp_path / str(number), os.O_RDONLY))
    for number in range(5):
        with ends[1].receive_file() as file:
            assert file.read() == str(number).encode()


@pytest.mark.parametrize("count", [2, 3, 253])
def test_more_than_one_is_refused_and_all_are_closed(pair: Any, ends: tuple[Any, Any], count: int) -> None:
    fd = null()
    ancillary.send(pair[0], b"F", [fd] * count)
    with pytest.raises(SeveralDescriptors, match=f"{count} descriptors"):
        ends[1].receive_fd()
    os.close(fd)


def test_data_without_a_descriptor_is_another_error_than_the_end(pair: Any, ends: tuple[Any, Any]) -> None:
    pair[0].send(b"F")
    with pytest.raises(NoDescriptor):
        ends[1].receive_fd()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_the_end_is_an_error_of_its_own(form: Any, kind: socket.SocketKind) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, kind)
    receiver = form(right)
    left.close()
    with pytest.raises(ConduitClosed, match="hung up"):
        receiver.receive_fd()
    receiver.close()
    with pytest.raises(ConduitClosed, match="this conduit is closed"):
        receiver.receive_fd()


def test_a_peer_that_closes_with_unread_data_is_an_end_too(form: Any) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    receiver = form(right)
    right.send(b"unread")
    left.close()
    with pytest.raises(ConduitClosed):
        receiver.receive_fd()
    receiver.close()


def test_a_foreign_control_message_is_refused_and_what_came_with_it_closed(pair: Any, ends: tuple[Any, Any]) -> None:
    pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    fd = null()
    ancillary.send(pair[0], b"F", [fd])
    with pytest.raises(ForeignControlMessage, match="SO_PASSCRED"):
        ends[1].receive_fd()
    os.close(fd)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_message_longer_than_a_conduits_is_refused(form: Any, kind: socket.SocketKind) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, kind)
    receiver = form(right)
    fd = null()
    ancillary.send(left, b"FFF", [fd])
    with pytest.raises(DescriptorsLost, match="longer"):
        receiver.receive_fd()
    os.close(fd)
    left.close()
    receiver.close()


def test_at_the_limit_of_open_files_the_loss_is_reported(pair: Any) -> None:
    sender, receiver = Conduit(pair[0]), Conduit(pair[1])
    sender.transfer_fd(null())
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = null()
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        with pytest.raises(DescriptorsLost, match="too many files"):
            receiver.receive_fd()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_what_could_not_be_sent_is_still_the_callers(ends: tuple[Any, Any], pair: Any, tmp_path: Path) -> None:
    pair[0].shutdown(socket.SHUT_RDWR)
    fd = null()
    with pytest.raises(TransferFailed, match="still yours"):
        ends[0].transfer_fd(fd)
    assert is_open(fd)
    os.close(fd)
    with open(tmp_path / "file", "w") as file:
        with pytest.raises(TransferFailed, match="still yours"):
            ends[0].transfer_file(file)
        assert not file.closed
    with socket.socket() as sock:
        with pytest.raises(TransferFailed, match="still yours"):
            ends[0].transfer_socket(sock)
        assert sock.fileno() >= 0


def test_a_closed_descriptor_file_or_socket_cannot_be_sent(ends: tuple[Any, Any], tmp_path: Path) -> None:
    for fd in (-1, 9999):
        with pytest.raises(TransferFailed):
            ends[0].transfer_fd(fd)
    with open(tmp_path / "file", "w") as file:
        pass
    with pytest.raises(TransferFailed):
        ends[0].transfer_file(file)
    sock = socket.socket()
    sock.close()
    with pytest.raises(TransferFailed):
        ends[0].transfer_socket(sock)


def test_a_closed_conduit_sends_nothing(ends: tuple[Any, Any]) -> None:
    ends[0].close()
    ends[0].close()
    assert ends[0].closed
    fd = null()
    with pytest.raises(ConduitClosed, match="this conduit is closed"):
        ends[0].transfer_fd(fd)
    assert is_open(fd)
    os.close(fd)


async def test_closing_a_trio_conduit_wakes_the_task_that_waits_on_it() -> None:
    left, right = nsbroker.conduit.trio.Conduit.pair()
    with left, trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(ConduitClosed, match="meanwhile"):
                    await right.receive_fd()

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            right.close()


def test_another_kind_than_asked_for_is_refused_and_closed(ends: tuple[Any, Any]) -> None:
    ends[0].transfer_fd(null())
    with pytest.raises(WrongDescriptor, match="no socket"):
        ends[1].receive_socket()
    ends[0].transfer_fd(os.open("/", os.O_RDONLY))
    with pytest.raises(WrongDescriptor, match="no file"):
        ends[1].receive_file()
    ends[0].transfer_fd(null())
    with pytest.raises(ValueError, match="mode"):
        ends[1].receive_file("nonsense")


def test_a_transport_that_cannot_carry_descriptors_is_refused_at_once(form: Any) -> None:
    for transport in (1, "socket", None):
        with pytest.raises(UnusableTransport, match="a socket"):
            form(transport)
    with socket.socket(socket.AF_INET) as inet:
        with pytest.raises(UnusableTransport, match="AF_INET"):
            form(inet)
        assert inet.fileno() >= 0


@pytest.mark.parametrize("cls", [Conduit, nsbroker.conduit.trio.Conduit, nsbroker.conduit.asyncio.Conduit])
def test_a_pair_is_connected(cls: Any) -> None:
    left, right = cls.pair()
    with left, right:
        assert not left.closed
    assert left.closed
    assert right.closed


async def test_a_trio_receiver_that_is_cancelled_leaks_nothing() -> None:
    left, right = nsbroker.conduit.trio.Conduit.pair()
    with left, right:
        with trio.move_on_after(0.05) as scope:
            await right.receive_fd()
        assert scope.cancelled_caught
        await left.transfer_fd(null())
        os.close(await right.receive_fd())


async def test_a_trio_sender_waits_for_room() -> None:
    left, right = nsbroker.conduit.trio.Conduit.pair()
    with left, right:
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for _ in range(2000):
                    await left.transfer_fd(null())

            nursery.start_soon(send)
            for _ in range(2000):
                os.close(await right.receive_fd())


def test_between_processes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the parent")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    code = """
import socket, sys
from nsbroker import Conduit
with Conduit(socket.socket(fileno=int(sys.argv[1]))) as conduit, conduit.receive_file("r") as file:
    print(file.read())
"""
    with Conduit(ours) as conduit, theirs:
        conduit.transfer_fd(os.open(tmp_path / "file", os.O_RDONLY))
        done = subprocess.run(
            [sys.executable, "-c", code, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout == "from the parent\n"


def test_a_control_message_with_half_a_descriptor_gives_no_descriptor() -> None:
    # The kernel only sends whole integers, but the parser does not rely on that.
    assert ancillary.split([(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", 7)[:3])]) == ([], [])
    with contextlib.suppress(ValueError):
        ancillary.split([(socket.SOL_SOCKET, 99, b"abc")])
