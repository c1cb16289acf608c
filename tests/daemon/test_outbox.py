"""Replies are sent in their order, as far as there is room, and what is not sent is closed."""

import os
import signal
import socket
import time
from collections.abc import AsyncGenerator, Iterator
from typing import cast

import msgspec
import pytest
import trio

from nsbroker.daemon.audit import Audit
from nsbroker.daemon.configuration.settings import Limits
from nsbroker.daemon.dispatcher import Dispatcher
from nsbroker.daemon.limits.connections import ConnectionCharge, UserRegistry
from nsbroker.daemon.limits.fair_queue import FairQueue, Turn
from nsbroker.daemon.methods.call import Reply
from nsbroker.daemon.outbox import Outbox, ReadingTime
from nsbroker.daemon.server import Server
from nsbroker.linux import ancillary, descriptors
from nsbroker.linux.socket_options import unreceived_bytes
from nsbroker.varlink.connection import IncomingCall, ServerConnection
from tests.daemon.test_server import WHO, is_closed, replies
from tests.world import ALICE, PATIENCE, SLOWNESS, Daemon, Sleeper, eventually


class Bench:
    """An outbox, and the peer's end of its connection."""

    def __init__(self, limits: Limits) -> None:
        ours, self.peer = socket.socketpair()
        ours.setblocking(False)
        self.peer.settimeout(PATIENCE)
        self.users = UserRegistry(limits)
        self.charge: ConnectionCharge = self.users.admit(ALICE, ours)
        self.time = ReadingTime(self.users)
        self.connection = ServerConnection()
        self.outbox = Outbox(self.charge, self.connection, self.users, self.time)

    def next_call(self, *, oneway: bool = False) -> IncomingCall:
        self.connection.receive(msgspec.json.encode({"method": "a.b.C", "oneway": oneway}) + b"\0", [])
        call = self.connection.next_call()
        assert call
        return call

    def add(self, text: str, *, oneway: bool = False) -> None:
        self.outbox.add(self.next_call(oneway=oneway), Reply({"text": text}, [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)]))

    def close(self) -> None:
        self.outbox.close()
        self.peer.close()
        self.users.give_back(self.charge)
        self.users.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench(Limits(reply_deadline=0.1))
    yield bench
    bench.close()


def read(peer: socket.socket) -> tuple[str, int]:
    """Return the text of one reply, and how many fds came with it."""
    data = b""
    found: list[int] = []
    while not data.endswith(b"\0"):
        piece, fds = ancillary.receive_piece(peer, bytearray(1 << 16), b"\0")
        assert piece, "hung up"
        data += piece
        found += fds
    descriptors.close_all(found)
    return msgspec.json.decode(data[:-1])["parameters"]["text"], len(found)


async def test_replies_are_sent_together_in_their_order_each_with_its_fds(bench: Bench) -> None:
    for text in "abc":
        bench.add(text)
    bench.add("nobody waits for this one", oneway=True)
    assert (bench.charge.unread, bench.charge.unsent) == (3, 3)
    assert not bench.charge.recount(), "what is not sent is not read"
    assert bench.outbox.send()
    assert (bench.charge.unread, bench.charge.unsent) == (3, 0)
    assert [read(bench.peer) for _ in range(3)] == [("a", 1), ("b", 1), ("c", 1)]
    assert bench.charge.recount()


async def test_what_the_socket_has_no_room_for_waits_until_the_peer_reads(bench: Bench) -> None:
    texts = [letter * 200_000 for letter in "abcd"]
    for text in texts:
        bench.add(text)
    assert not bench.outbox.send()
    turn = Turn(FairQueue(), ALICE)
    found: list[tuple[str, int]] = []

    async def read_all() -> None:
        found.extend([await trio.to_thread.run_sync(read, bench.peer) for _ in texts])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_all)
        await bench.outbox.send_all(turn)
    assert found == [(text, 1) for text in texts]
    assert bench.outbox.send(), "nothing is left"


async def test_a_peer_that_does_not_read_is_given_up_and_everything_is_closed(bench: Bench) -> None:
    for letter in "abcd":
        bench.add(letter * 200_000)
    with pytest.raises(trio.TooSlowError):
        await bench.outbox.send_all(Turn(FairQueue(), ALICE))
    bench.outbox.close()
    assert bench.charge.unsent == 0
    assert bench.outbox.send(), "nothing is left"


async def test_when_the_broker_stops_a_peer_has_only_a_moment() -> None:
    bench = Bench(Limits(reply_deadline=PATIENCE * 10))
    for letter in "abcd":
        bench.add(letter * 200_000)

    async def stop() -> None:
        await trio.sleep(0.05)
        bench.time.stop()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop)
            with pytest.raises(trio.TooSlowError):
                await bench.outbox.send_all(Turn(FairQueue(), ALICE))
    bench.close()


def test_calls_before_a_malformed_message_are_answered(daemon: Daemon) -> None:
    with daemon.raw() as sock:
        sock.sendall(WHO * 3 + b"no call\0")
        assert ["peer" in reply["parameters"] for reply, _ in replies(sock, 3)] == [True] * 3
        assert is_closed(sock)


def test_a_malformed_message_is_recorded_although_the_peer_has_hung_up_without_reading(daemon: Daemon) -> None:
    with daemon.raw() as sock:
        sock.sendall(WHO)
        replies(sock, 1)
        os.kill(daemon.pid, signal.SIGSTOP)
        sock.sendall(WHO + b"no call\0")
    os.kill(daemon.pid, signal.SIGCONT)
    eventually(lambda: any(record["verdict"] == "malformed" for record in daemon.records()), "the message is recorded")


def test_calls_before_a_malformed_message_are_answered_also_when_there_is_no_room_for_all_replies(daemon: Daemon) -> None:
    parameters = {"interface": "io.nsbroker.Broker"}
    describe = msgspec.json.encode({"method": "org.varlink.service.GetInterfaceDescription", "parameters": parameters}) + b"\0"
    with daemon.raw() as sock:
        # As many calls as are answered in one turn, whose replies fill the socket.
        sock.sendall(describe * 8)
        eventually(lambda: unreceived_bytes(sock) > 150_000, "the replies have come")
        sock.sendall(describe * 8 + b"no call\0")
        time.sleep(0.2 * SLOWNESS)
        assert ["description" in reply["parameters"] for reply, _ in replies(sock, 16)] == [True] * 16
        assert is_closed(sock)


async def test_what_has_room_again_does_not_wait_for_the_reply_to_a_later_call(bench: Bench) -> None:
    texts = [letter * 200_000 for letter in "ab"]
    for text in texts:
        bench.add(text)
    assert not bench.outbox.send()
    read_by_then: list[str] = []

    async def answer() -> Reply:
        read_by_then.extend([(await trio.to_thread.run_sync(read, bench.peer))[0] for _ in texts])
        return Reply({"text": "late"})

    with trio.fail_after(PATIENCE):
        await bench.outbox.add_later(bench.next_call(), answer())
        assert read_by_then == texts
        await bench.outbox.send_all(Turn(FairQueue(), ALICE))
    assert read(bench.peer) == ("late", 0)


async def test_a_reply_is_waited_for_also_when_the_peer_reads_nothing_of_earlier_ones(bench: Bench) -> None:
    bench.add("a" * 1_000_000)

    async def answer() -> Reply:
        await trio.sleep(0.3)
        return Reply({"text": "late"})

    assert not bench.outbox.send()
    await bench.outbox.add_later(bench.next_call(), answer())
    with pytest.raises(trio.TooSlowError):
        await bench.outbox.send_all(Turn(FairQueue(), ALICE))


async def test_what_has_room_again_does_not_wait_for_the_first_reply_of_a_stream(bench: Bench) -> None:
    texts = [letter * 200_000 for letter in "ab"]
    for text in texts:
        bench.add(text)
    found: list[str] = []

    async def stream() -> AsyncGenerator[Reply, None]:
        found.extend([(await trio.to_thread.run_sync(read, bench.peer))[0] for _ in texts])
        yield Reply({"text": "late"})

    server = Server(cast(Dispatcher, None), bench.users, cast(Audit, None))
    with trio.fail_after(PATIENCE):
        await server._send_stream(bench.charge.sock, bench.outbox, bench.next_call(), stream(), Turn(FairQueue(), ALICE))
    assert found == texts
    assert read(bench.peer) == ("late", 0)


def test_when_a_peer_has_hung_up_a_call_that_takes_time_is_still_ended_in_order(daemon: Daemon, sleeper: Sleeper) -> None:
    before = daemon.snapshot()
    with daemon.raw() as sock:
        sock.sendall(WHO)
        replies(sock, 1)
        # With a start time, Open takes time.
        parameters = {"target": {"pid": sleeper.pid}, "types": ["net"], "expect": {"startTime": 1}}
        call = msgspec.json.encode({"method": "io.nsbroker.Broker.Open", "parameters": parameters}) + b"\0"
        os.kill(daemon.pid, signal.SIGSTOP)
        sock.sendall(WHO + call)
    os.kill(daemon.pid, signal.SIGCONT)
    eventually(lambda: any(record["method"] == "Open" for record in daemon.records()), "the call is recorded")
    daemon.settles_at(before)
    assert not [word for word in daemon.words() if "never awaited" in word]
