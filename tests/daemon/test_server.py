"""Connections: pipelining and deadlines.  An error on one connection does not affect another."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nsbroker.daemon.limits.rate_limit import MOST
from nsbroker.errors import ConnectionFailed
from nsbroker.linux import ancillary
from nsbroker.linux.socket_options import unread_bytes
from tests.world import SLOWNESS, Daemon, Sleeper, check_below, eventually

WHO = b'{"method":"io.nsbroker.Broker.WhoAmI"}\0'


@contextlib.contextmanager
def limited(folder: Path, limits: str) -> Iterator[Daemon]:
    with Daemon(folder, limits=limits) as daemon:
        yield daemon


def replies(sock: socket.socket, count: int) -> list[tuple[dict[str, Any], list[int]]]:
    """Receive `count` replies, each with its fds (the caller's)."""
    found: list[tuple[dict[str, Any], list[int]]] = []
    rest = b""
    fds: list[int] = []
    while len(found) < count:
        data, new = ancillary.receive_piece(sock, bytearray(70000), b"\0")
        assert data, "the daemon hung up"
        rest, fds = rest + data, fds + new
        while b"\0" in rest:
            message, _, rest = rest.partition(b"\0")
            found.append((msgspec.json.decode(message), fds))
            fds = []
    return found


def open_call(**target: object) -> bytes:
    return msgspec.json.encode({"method": "io.nsbroker.Broker.Open", "parameters": {"target": target, "types": ["net"]}}) + b"\0"


def is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_hundred_pipelined_calls_every_third_with_a_pidfd_get_their_replies_in_order(daemon: Daemon) -> None:
    sleepers = [Sleeper("--net") for _ in range(5)]
    pidfds = [os.pidfd_open(sleeper.pid) for sleeper in sleepers]

    def send(sock: socket.socket) -> None:
        for number in range(100):
            which = number % 5
            if number % 3 == 0:
                ancillary.send(sock, open_call(pidFileDescriptor=0), [pidfds[which]])
            else:
                ancillary.send(sock, open_call(pid=sleepers[which].pid))

    with daemon.raw() as sock:
        sender = threading.Thread(target=send, args=(sock,))
        sender.start()
        for number, (reply, fds) in enumerate(replies(sock, 100)):
            [opened], [fd] = reply["parameters"]["namespaces"], fds
            assert opened["inode"] == os.fstat(fd).st_ino == sleepers[number % 5].inode("net")
            os.close(fd)
        sender.join()
    for fd, sleeper in zip(pidfds, sleepers, strict=True):
        os.close(fd)
        sleeper.end()


def test_a_call_may_come_byte_by_byte(daemon: Daemon) -> None:
    with daemon.raw() as sock:
        for byte in WHO:
            sock.send(bytes([byte]))
        assert replies(sock, 1)[0][0]["parameters"]["peer"]["uid"] == os.geteuid()


def test_oneway_calls_are_served_without_a_reply(daemon: Daemon) -> None:
    with daemon.raw() as sock:
        sock.send(b'{"method":"io.nsbroker.Broker.Open","parameters":{"target":{"self":true}},"oneway":true}\0' + WHO)
        assert "peer" in replies(sock, 1)[0][0]["parameters"]
    assert [record["method"] for record in daemon.records()] == ["Open"]


@pytest.mark.parametrize(
    "data",
    [
        b"[null]\0", b"\0", b"GET / HTTP/1.1\r\n\r\n\0", b"x" * 65537,
        b'{"method":"a.B","parameters":' + b"[" * 1000 + b"]" * 1000 + b"}\0",
        b'{"method":"a.B","more":1}\0', b'{"method":"a.B","unknown":1}\0',
    ],
    ids=lambda data: repr(data[:30]),
)  # fmt: skip
def test_only_the_peer_that_breaks_the_protocol_is_disconnected(daemon: Daemon, data: bytes) -> None:
    before = daemon.snapshot()
    null = os.open(os.devnull, os.O_RDONLY)
    with daemon.connect() as other:
        with daemon.raw() as sock:
            sock.send(WHO)
            with contextlib.suppress(BrokenPipeError):
                ancillary.send(sock, data, [null] * 3)
                sock.send(WHO)
            # The call before the error is answered, and no call after it.
            assert "peer" in replies(sock, 1)[0][0]["parameters"]
            assert is_closed(sock)
        other.who_am_i()
    os.close(null)
    daemon.settles_at(before)


def test_a_malformed_message_is_recorded_with_who_sent_it_and_what_was_wrong(daemon: Daemon) -> None:
    for data, reason in (
        (b"GET / HTTP/1.1\r\n\r\n\0", "not a call: JSON is malformed"),
        (b'{"method":5}\0', "Expected `str`, got `int` - at `$.method`"),
        (b'{"method":"a.B","' + b"x\\u001b" * 1000 + b'":1}\0', "not a call: Object contains unknown field"),
        (b"x" * 65537, "a message is longer than 65536 bytes"),
    ):
        with daemon.raw() as sock:
            sock.send(data)
            assert is_closed(sock)
        record = daemon.records()[-1]
        assert (record["verdict"], record["peer_uid"], record["peer_pid"]) == ("malformed", os.geteuid(), os.getpid())
        assert reason in record["error"]
    assert len(daemon.records()) == 4


def test_malformed_messages_above_the_limit_of_a_user_are_only_counted(daemon: Daemon) -> None:
    for _ in range(MOST + 7):
        with daemon.raw() as sock:
            sock.send(b"\0")
            assert is_closed(sock)
    daemon.stop()
    verdicts = [record["verdict"] for record in daemon.records()]
    assert verdicts == ["malformed"] * MOST + ["suppressed"]
    assert daemon.records()[-1]["count"] == 7


def test_descriptors_in_the_middle_of_a_message_end_the_connection(daemon: Daemon) -> None:
    before = daemon.snapshot()
    null = os.open(os.devnull, os.O_RDONLY)
    with daemon.raw() as sock:
        sock.send(WHO[:10])
        # If the first half were still unread, the kernel would join both halves, and they would look like one message.
        eventually(lambda: unread_bytes(sock) == 0, "the daemon reads the first half")
        ancillary.send(sock, WHO[10:], [null])
        assert is_closed(sock)
    os.close(null)
    daemon.settles_at(before)


def test_a_peer_that_has_closed_its_sending_half_gets_the_whole_stream(daemon: Daemon) -> None:
    with daemon.raw() as sock:
        sock.send(b'{"method":"io.nsbroker.Broker.List","parameters":{},"more":true}\0')
        sock.shutdown(socket.SHUT_WR)
        text = b""
        while piece := sock.recv(65536):
            text += piece
    assert text.count(b'"continues":true') == text.count(b"\0") - 1
    assert text.endswith(b"}\0")


def test_half_a_message_ends_the_connection_after_the_deadline(tmp_path: Path) -> None:
    with limited(tmp_path, "message-deadline = 0.3") as daemon, daemon.raw() as slow, daemon.raw() as idle:
        before = time.monotonic()
        slow.send(WHO[:10])
        assert is_closed(slow)
        assert 0.2 < time.monotonic() - before < 5 * SLOWNESS
        idle.send(WHO)
        replies(idle, 1)
        [record] = daemon.records()
        assert (record["verdict"], record["peer_pid"]) == ("malformed", os.getpid())
        assert record["error"] == "the message was not complete, with a NUL byte at its end, within 0.3 s"


def test_each_message_has_one_deadline_that_further_bytes_do_not_extend(tmp_path: Path) -> None:
    deadline = 0.5 * SLOWNESS
    with limited(tmp_path, f"message-deadline = {deadline}") as daemon, daemon.raw() as sock:
        with contextlib.suppress(BrokenPipeError):
            for byte in WHO[:10] * 3:
                sock.send(bytes([byte]))
                time.sleep(0.06 * deadline)
                if is_readable(sock):
                    break
        assert is_closed(sock)
        with daemon.raw() as steady:
            steady.send(WHO[:5])
            for _ in range(5):
                time.sleep(0.3 * deadline)
                # The connection is always in the middle of a message, but of a new one each time.
                steady.send(WHO[5:] + WHO[:5])
                replies(steady, 1)


def is_readable(sock: socket.socket) -> bool:
    import select

    return bool(select.select([sock], [], [], 0)[0])


def test_a_client_that_never_reads_is_disconnected_and_its_descriptors_are_limited(tmp_path: Path) -> None:
    with limited(tmp_path, "reply-deadline = 0.3\nunread-descriptors-per-user = 300") as daemon:
        before = daemon.snapshot()
        sock = daemon.raw()
        sock.settimeout(0.5)
        with contextlib.suppress(BrokenPipeError, TimeoutError):
            for _ in range(3000):
                sock.send(open_call(pid=os.getpid()))
        eventually(lambda: hung_up(sock), "the daemon hangs up")
        with daemon.connect() as other:
            status = other.status()
        assert status.file_descriptors is not None
        assert status.file_descriptors <= 300
        assert status.connections == 2, "the connection with unread descriptors still counts"
        sock.close()
        eventually(lambda: one_connection(daemon), "it no longer counts")
        daemon.settles_at(before)


def hung_up(sock: socket.socket) -> bool:
    try:
        sock.send(b" ")
    except BrokenPipeError:
        return True
    except TimeoutError:
        return False
    return False


def one_connection(daemon: Daemon) -> bool:
    with daemon.connect() as broker:
        return broker.status().connections == 1


def test_a_client_that_hangs_up_at_any_moment_harms_nobody(daemon: Daemon) -> None:
    before = daemon.snapshot()
    for cut in range(1, len(WHO)):
        with daemon.raw() as sock:
            sock.send(WHO[:cut])
    for _ in range(20):
        with daemon.raw() as sock:
            sock.send(open_call(pid=os.getpid()) * 5)
    daemon.settles_at(before)
    with daemon.connect() as broker:
        broker.who_am_i()


def test_a_daemon_that_dies_is_reported_by_the_client(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        broker.who_am_i()
        daemon.stop(signal.SIGKILL)
        with pytest.raises(ConnectionFailed, match="is the daemon running"):
            broker.who_am_i()


def test_peers_that_do_not_read_do_not_hold_up_the_end_of_the_broker(daemon: Daemon) -> None:
    """With a reply that has no room, and with more descriptors unread than a peer may have.  Calls have five seconds to end."""

    def measure() -> float:
        with daemon.raw() as deaf, daemon.raw() as full, daemon.connect() as broker:
            deaf.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    deaf.send(WHO * 100)
            full.send(open_call(pid=os.getpid()) * 300)
            eventually(lambda: broker.status().connections == 3, "all are served")
            time.sleep(0.1)
            seconds = seconds_to_stop(daemon)
        daemon.start()
        return seconds

    check_below(4, measure, "seconds until it ended")


def seconds_to_stop(daemon: Daemon) -> float:
    begun = time.monotonic()
    assert daemon.stop() == 0
    return time.monotonic() - begun


def test_clients_that_keep_connecting_do_not_hold_up_the_end_of_the_broker(daemon: Daemon) -> None:
    """The broker accepts what waits in the queue before it stops, and the queue need not become empty."""
    code = "import socket, sys\nwhile True:\n    with socket.socket(socket.AF_UNIX) as sock:\n        sock.connect(sys.argv[1])"

    def measure() -> float:
        path = daemon.address.removeprefix("unix:")
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                process = stack.enter_context(subprocess.Popen([sys.executable, "-c", code, path], stderr=subprocess.DEVNULL))
                stack.callback(process.kill)
            time.sleep(0.3)
            seconds = seconds_to_stop(daemon)
        daemon.start()
        return seconds

    check_below(4, measure, "seconds until it ended")
