import contextlib
import errno
import fcntl
import os
import resource
import socket
import struct
from collections.abc import Iterator

import pytest

from nsbroker.linux import ancillary, descriptors
from tests.world import PATIENCE

Pair = tuple[socket.socket, socket.socket]
BUFFER = 65537


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with left, right:
        left.settimeout(PATIENCE)
        right.settimeout(PATIENCE)
        yield left, right


@pytest.fixture
def null() -> Iterator[int]:
    fd = os.open(os.devnull, os.O_RDONLY)
    yield fd
    os.close(fd)


def pieces(sock: socket.socket, count: int) -> list[tuple[bytes, int]]:
    """Receive `count` pieces, and return the data of each and the number of fds that came with it."""
    found = []
    for _ in range(count):
        data, fds = ancillary.receive_piece(sock, bytearray(BUFFER), b"\0")
        found.append((data, len(fds)))
        descriptors.close_all(fds)
    return found


def test_received_fds_are_close_on_exec(pair: Pair, null: int) -> None:
    os.set_inheritable(null, True)
    ancillary.send(pair[0], b"x", [null])
    _, [fd] = ancillary.receive_into(pair[1], memoryview(bytearray(10)))
    assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    os.close(fd)


def test_fds_belong_to_the_message_they_were_sent_with_although_the_kernel_joins_messages(pair: Pair, null: int) -> None:
    ancillary.send(pair[0], b"one\0")
    ancillary.send(pair[0], b"two\0")
    ancillary.send(pair[0], b"three\0", [null])
    ancillary.send(pair[0], b"four\0")
    assert pieces(pair[1], 4) == [(b"one\0", 0), (b"two\0", 0), (b"three\0", 1), (b"four\0", 0)]


def test_messages_without_fds_come_in_one_piece(pair: Pair) -> None:
    ancillary.send(pair[0], b"one\0")
    ancillary.send(pair[0], b"two\0thr")
    assert pieces(pair[1], 1) == [(b"one\0two\0thr", 0)]


def test_the_kernel_still_joins_a_message_with_fds_to_the_bytes_before_it(pair: Pair, null: int) -> None:
    ancillary.send(pair[0], b"one\0")
    ancillary.send(pair[0], b"two\0", [null])
    count, fds = ancillary.receive_into(pair[1], memoryview(bytearray(100)))
    descriptors.close_all(fds)
    assert (count, len(fds)) == (8, 1)


def test_fds_of_a_message_sent_in_parts_come_with_its_first_part(pair: Pair, null: int) -> None:
    ancillary.send(pair[0], b"one\0")
    ancillary.send(pair[0], b"tw", [null])
    ancillary.send(pair[0], b"o\0")
    assert pieces(pair[1], 3) == [(b"one\0", 0), (b"tw", 1), (b"o\0", 0)]


def test_end_of_file_is_no_bytes(pair: Pair) -> None:
    pair[0].close()
    assert pieces(pair[1], 1) == [(b"", 0)]


def test_253_fds_fit_and_254_do_not(pair: Pair, null: int) -> None:
    ancillary.send(pair[0], b"x\0", [null] * ancillary.SCM_MAX_FD)
    assert pieces(pair[1], 1) == [(b"x\0", 253)]
    with pytest.raises(OSError, match="Invalid argument"):
        ancillary.send(pair[0], b"x\0", [null] * (ancillary.SCM_MAX_FD + 1))


@pytest.mark.parametrize("room", [0, 1, 5])
def test_at_the_limit_of_open_files_nothing_leaks(pair: Pair, null: int, room: int) -> None:
    ancillary.send(pair[0], b"x\0", [null] * 10)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    buffer = memoryview(bytearray(10))
    lowest_free = os.dup(null)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + room, before[1]))
    try:
        with pytest.raises(OSError, match="lost") as caught:
            ancillary.receive_into(pair[1], buffer)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert caught.value.errno == errno.EMFILE


def test_a_foreign_control_message_is_returned_separately_and_a_pidfd_in_it_is_closed(pair: Pair, null: int) -> None:
    pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    ancillary.send(pair[0], b"x", [null])
    _, control, _, _ = pair[1].recvmsg(10, 1000, socket.MSG_CMSG_CLOEXEC)
    fds, others = ancillary.split(control)
    descriptors.close_all(fds)
    assert len(fds) == 1
    assert others == [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS)]
    copy = os.dup(null)
    assert ancillary.split([(socket.SOL_SOCKET, 4, struct.pack("i", copy))]) == ([], [(socket.SOL_SOCKET, 4)])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(copy)


@pytest.mark.once
def test_a_control_message_with_half_a_descriptor_gives_no_descriptor() -> None:
    # The kernel only sends whole integers, but the parser does not rely on that.
    assert ancillary.split([(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", 7)[:3])]) == ([], [])
    with contextlib.suppress(ValueError):
        ancillary.split([(socket.SOL_SOCKET, 99, b"abc")])
