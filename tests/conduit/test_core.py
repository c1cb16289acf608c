"""What all conduits share: the ways to make one, the names of files, and the errors of closing and of empty messages."""

import errno
import io
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nsbroker.conduit.asyncio
import nsbroker.conduit.trio
from nsbroker.conduit import Conduit
from nsbroker.errors import CloseFailed, ConduitClosed, ConduitError, NoDescriptor, UnusableTransport
from nsbroker.linux import ancillary
from nsbroker.linux.descriptors import is_open
from tests.conduit.on_asyncio import OnAsyncio
from tests.conduit.test_conduit import OnTrio, null

CONDUITS = [Conduit, nsbroker.conduit.trio.Conduit, nsbroker.conduit.asyncio.Conduit]


@pytest.fixture(params=[Conduit, OnTrio, OnAsyncio], ids=["blocking", "trio", "asyncio"])
def form(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("cls", CONDUITS)
def test_a_number_that_is_owned_is_closed_with_the_conduit(cls: Any) -> None:
    left, right = socket.socketpair()
    os.set_inheritable(left.fileno(), True)
    fd = left.detach()
    with cls.from_fd(fd, owned=True), right:
        assert not os.get_inheritable(fd)
    assert not is_open(fd)


@pytest.mark.parametrize("cls", CONDUITS)
def test_a_number_that_is_borrowed_stays_the_callers_also_in_its_blocking_mode(cls: Any) -> None:
    left, right = socket.socketpair()
    with left, right:
        for blocking in (True, False):
            left.setblocking(blocking)
            with cls.from_fd(left.fileno(), owned=False) as conduit:
                assert not conduit.closed
            assert os.get_blocking(left.fileno()) is blocking
        assert left.send(b"!") == 1


def test_a_conduit_over_a_borrowed_number_works_after_the_caller_has_closed_it() -> None:
    left, right = socket.socketpair()
    with Conduit.from_fd(left.fileno(), owned=False) as sender, Conduit(right) as receiver:
        left.close()
        sender.transfer_fd(null())
        os.close(receiver.receive_fd())


@pytest.mark.parametrize("cls", CONDUITS)
@pytest.mark.parametrize("owned", [True, False])
def test_a_number_that_is_no_socket_is_refused_and_closed_when_owned(cls: Any, owned: bool) -> None:
    fd = null()
    with pytest.raises(UnusableTransport, match="needs a socket"):
        cls.from_fd(fd, owned=owned)
    assert is_open(fd) is not owned
    if not owned:
        os.close(fd)
    for number in (fd, -1):
        with pytest.raises(UnusableTransport, match=f"the descriptor {number}"):
            cls.from_fd(number, owned=owned)


@pytest.mark.parametrize("owned", [True, False])
def test_a_number_of_another_family_is_refused(owned: bool) -> None:
    fd = socket.socket().detach()
    with pytest.raises(UnusableTransport, match="AF_INET"):
        Conduit.from_fd(fd, owned=owned)
    assert is_open(fd) is not owned
    if not owned:
        os.close(fd)


@pytest.mark.parametrize("cls", CONDUITS)
def test_a_conduit_from_a_file_uses_a_duplicate_of_it(cls: Any) -> None:
    left, right = socket.socketpair()
    with left, right, left.makefile("rb") as file:
        for source in (left, file):
            with cls.from_file(source):
                pass
            assert is_open(source.fileno())
    with pytest.raises(UnusableTransport, match="no descriptor"):
        cls.from_file(io.BytesIO())
    with pytest.raises(UnusableTransport, match="no descriptor"):
        cls.from_file("socket")
    with open(os.devnull) as other, pytest.raises(UnusableTransport, match="needs a socket"):
        cls.from_file(other)
    with pytest.raises(UnusableTransport, match="no descriptor"):
        cls.from_file(other)
    with pytest.raises(UnusableTransport, match="descriptor -1"):
        cls.from_file(left)


def test_a_conduit_from_standard_input() -> None:
    code = """
import sys
from nsbroker import Conduit
with Conduit.from_file(sys.stdin) as conduit, conduit.receive_file("r") as file:
    print(file.read(), file.name)
"""
    ours, theirs = socket.socketpair()
    with Conduit(ours) as conduit, theirs:
        conduit.transfer_fd(os.open(os.devnull, os.O_RDONLY))
        done = subprocess.run([sys.executable, "-c", code], stdin=theirs.fileno(), capture_output=True, text=True, check=True)
    assert done.stdout == " /dev/null\n"


def test_a_received_file_has_the_name_that_the_kernel_knows(form: Any, tmp_path: Path) -> None:
    left, right = socket.socketpair()
    sender, receiver = form(left), form(right)
    for mode, text in (("r", True), ("rb", False), ("rb+", False), ("a", True)):
        path = tmp_path / "file"
        path.write_text("kept")
        sender.transfer_file(open(path, "r+"))  # noqa: SIM115 - it is given away
        with receiver.receive_file(mode) as file:
            assert file.name == str(path)
            assert isinstance(file, io.TextIOBase) is text
            assert not os.get_inheritable(file.fileno())
        assert path.read_text() == "kept"
    sender.transfer_fd(os.memfd_create("log"))
    with receiver.receive_file() as file:
        assert file.name == "/memfd:log (deleted)"
    read, write = os.pipe()
    sender.transfer_fd(read)
    with receiver.receive_file() as file:
        assert file.name == os.readlink(f"/proc/self/fd/{write}")
    os.close(write)
    sender.close()
    receiver.close()


class Unstorable(io.FileIO):
    """A file on a disk that is full: writing works, closing does not (close(2)).  Only network file systems do this."""

    def close(self) -> None:
        was_open = not self.closed
        super().close()
        if was_open:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_when_closing_after_sending_fails_that_is_an_error_of_its_own(form: Any, tmp_path: Path) -> None:
    left, right = socket.socketpair()
    sender, receiver = form(left), form(right)
    file = Unstorable(tmp_path / "file", "w")
    with pytest.raises(CloseFailed, match="was sent, but closing it here failed: No space left"):
        sender.transfer_file(file)
    assert file.closed
    assert issubclass(CloseFailed, ConduitError)
    with receiver.receive_file("wb") as got:
        assert got.name == str(tmp_path / "file")
    sender.close()
    receiver.close()


def test_a_descriptor_that_somebody_else_closed_meanwhile_is_a_failed_close(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = socket.socketpair()
    sender, receiver = form(left), form(right)
    real = ancillary.send

    def send_and_close(sock: socket.socket, data: bytes, fds: list[int], flags: int) -> int:
        count = real(sock, data, fds, flags)
        os.close(fds[0])
        return count

    monkeypatch.setattr(ancillary, "send", send_and_close)
    with pytest.raises(CloseFailed, match="the descriptor was sent"):
        sender.transfer_fd(null())
    sock = socket.socket()
    with pytest.raises(CloseFailed, match="the socket was sent"):
        sender.transfer_socket(sock)
    monkeypatch.undo()
    os.close(receiver.receive_fd())
    receiver.receive_socket().close()
    sender.close()
    receiver.close()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
@pytest.mark.parametrize("receive", ["receive_fd", "receive_file", "receive_socket"])
def test_an_empty_message_has_no_descriptor_but_is_not_the_end(form: Any, kind: socket.SocketKind, receive: str) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, kind)
    with left:
        receiver = form(right)
        left.send(b"")
        with pytest.raises(NoDescriptor):
            getattr(receiver, receive)()
        ancillary.send(left, b"F", [left.fileno()])
        receiver.receive_socket().close()
        left.send(b"F")
        with pytest.raises(NoDescriptor):
            getattr(receiver, receive)()
        receiver.close()


def test_the_end_is_the_end_also_where_credentials_come_with_it(form: Any) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    right.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    receiver = form(right)
    left.close()
    with pytest.raises(ConduitClosed, match="hung up"):
        receiver.receive_fd()
    receiver.close()
