"""Closing descriptors that others sent: at once when that cannot block, otherwise on threads."""

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from nsbroker.linux import closing
from nsbroker.linux.closing import Closer
from nsbroker.linux.descriptors import is_open
from tests.snapshot import thread_names
from tests.world import eventually, slow_to_close

USER = 4001


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def closes_at_once(ours: socket.socket) -> bool:
    hung_up = Closer().hang_up(ours, USER)
    if hung_up is not None:
        eventually(lambda: hung_up.done, "the descriptor is closed")
    return hung_up is None


def test_a_connection_that_received_all_is_closed_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    assert closes_at_once(pair[0])
    with pytest.raises(BrokenPipeError):
        pair[1].send(b"x")


def test_a_connection_with_only_bytes_left_in_it_is_closed_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    for _ in range(5):
        theirs.send(b"x" * 10_000)
    assert closes_at_once(ours)


@pytest.mark.parametrize("before", [0, 1, 60_000, 100_000])
def test_a_connection_with_descriptors_left_in_it_is_closed_on_a_thread(
    pair: tuple[socket.socket, socket.socket], before: int
) -> None:
    ours, theirs = pair
    theirs.send(b"x" * before)
    with open(os.devnull) as file:
        socket.send_fds(theirs, [b"y"], [file.fileno()])
    assert not closes_at_once(ours)


def test_a_descriptor_that_lingers_is_closed_on_a_thread(pair: tuple[socket.socket, socket.socket]) -> None:
    """The last close of a connection with unsent bytes takes as long as its linger time, or until the other end hangs up."""
    ours, theirs = pair
    slow, accepted = slow_to_close()
    with slow, accepted:
        socket.send_fds(theirs, [b"y"], [slow.fileno()])
        slow.setblocking(True)
        os.close(slow.detach())
        hung_up = Closer().hang_up(ours, USER)
        assert hung_up is not None
        assert not hung_up.done
        eventually(lambda: "closing" in thread_names(), "a thread closes it")
        accepted.close()
        eventually(lambda: hung_up.done, "the descriptor is closed")
    eventually(lambda: "closing" not in thread_names(), "the thread has ended")


def test_when_no_thread_can_be_started_the_descriptor_waits_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    closer = Closer()
    first, second = os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_RDONLY)
    with monkeypatch.context() as patched:
        patched.setattr(closing, "start_thread", refuse)
        waiting = closer.close(first, USER)
    assert not waiting.done
    last = closer.close(second, USER)
    eventually(lambda: waiting.done and last.done, "both are closed")
    eventually(lambda: "closing" not in thread_names(), "the threads have ended")
    assert closer._threads == 0


def refuse(*_: object) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(("name", "value"), [("start_thread", refuse), ("_THREADS_MAX", 0)])
def test_a_user_whose_descriptors_all_wait_without_a_thread_gets_one_as_soon_as_there_can_be_one(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    """Nothing more is received from such a user, so nothing more is closed for that user."""
    closer = Closer()
    with monkeypatch.context() as patched:
        patched.setattr(closing, name, value)
        waiting = [closer.close(os.open(os.devnull, os.O_RDONLY), USER) for _ in range(40)]
        assert closer.is_full(USER)
        assert closer.is_full(USER)
        assert not any(one.done for one in waiting)
    eventually(lambda: not closer.is_full(USER), "the user may send again")
    eventually(lambda: all(one.done for one in waiting), "all are closed")
    eventually(lambda: "closing" not in thread_names(), "the thread has ended")
    assert closer._threads == 0


def test_a_single_descriptor_that_found_no_thread_is_closed_as_soon_as_somebody_looks_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closer = Closer()
    with monkeypatch.context() as patched:
        patched.setattr(closing, "start_thread", refuse)
        waiting = closer.close(os.open(os.devnull, os.O_RDONLY), USER)
        closer.start_waiting()
    assert not closer.is_full(USER), "nobody looks because of that"
    assert not waiting.done
    closer.start_waiting()
    eventually(lambda: waiting.done, "it is closed")
    eventually(lambda: "closing" not in thread_names(), "the thread has ended")


def test_without_room_for_another_open_file_everything_that_came_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only opening fails, which is replaced: with all numbers in use, the test itself could open nothing."""
    closer = Closer()
    fds = [os.pidfd_open(os.getpid()), os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_RDONLY)]
    numbers = list(fds)
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", fail)
        with pytest.raises(OSError, match="Too many open files"):
            closer.replace_non_pidfds(fds, USER)
    assert fds == []
    eventually(lambda: not any(is_open(fd) for fd in numbers), "all are closed")
    eventually(lambda: "closing" not in thread_names(), "the threads have ended")


def fail(*_: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
