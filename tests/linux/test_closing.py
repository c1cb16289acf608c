"""Closing what others sent: at once where that cannot take long, and on threads of the sender's user otherwise."""

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from nsbroker.linux.closing import Closer
from tests.world import eventually

USER = 4001


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def closes_at_once(ours: socket.socket) -> bool:
    closing = Closer().hang_up(ours, USER)
    if closing is not None:
        eventually(lambda: closing.done, "it is closed")
    return closing is None


def test_a_connection_that_received_all_is_closed_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    assert closes_at_once(pair[0])
    with pytest.raises(BrokenPipeError):
        pair[1].send(b"x")


def test_so_is_one_with_bytes_alone_left_in_it(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    for _ in range(5):
        theirs.send(b"x" * 10_000)
    assert closes_at_once(ours)


@pytest.mark.parametrize("before", [0, 1, 60_000, 100_000])
def test_one_with_descriptors_in_it_is_closed_on_a_thread(pair: tuple[socket.socket, socket.socket], before: int) -> None:
    ours, theirs = pair
    theirs.send(b"x" * before)
    with open(os.devnull) as file:
        socket.send_fds(theirs, [b"y"], [file.fileno()])
    assert not closes_at_once(ours)


def test_what_lingers_keeps_nobody_waiting(pair: tuple[socket.socket, socket.socket]) -> None:
    """A connection full of bytes that nobody reads: its last close takes its linger time."""
    ours, theirs = pair
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as slow:
        accepted, _ = server.accept()
        slow.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                slow.send(bytes(100_000))
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1))
        socket.send_fds(theirs, [b"y"], [slow.fileno()])
        slow.setblocking(True)
        os.close(slow.detach())
        closing = Closer().hang_up(ours, USER)
        assert closing is not None
        assert not closing.done
        assert any(thread.name == "closing" for thread in threading.enumerate())
        eventually(lambda: closing.done, "it is closed")
        accepted.close()
    eventually(lambda: all(thread.name != "closing" for thread in threading.enumerate()), "the thread has ended")
