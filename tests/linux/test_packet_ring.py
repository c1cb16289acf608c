"""Packets in the ring of a packet socket."""

import select
import socket
from collections.abc import Iterator

import pytest

from nsbroker.linux.packet_ring import BLOCK_SIZE, PACKET, PacketRing, receive_from
from tests.world import ALICE, PATIENCE, as_user

LOOPBACK = 1


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    """A packet socket that receives nothing yet."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        yield sock


def receive(sock: socket.socket, index: int, payload: bytes) -> list[bytes]:
    """Send a packet through lo, and return what a ring of `sock` receives meanwhile."""
    with PacketRing(sock) as ring, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        assert ring.take() is None
        receive_from(sock, index)
        # Nobody listens there, which is answered by a packet of ICMP.
        sender.sendto(payload, ("127.0.0.1", 9))
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        assert poll.poll(PATIENCE * 1000)
        block = ring.take()
        assert block is not None
        found, at = [], block.first
        for _ in range(block.packets):
            following, _, _, captured, length, _, offset, _, _, interface, hardware = PACKET.unpack_from(ring.memory, at)
            assert (interface, hardware) == (LOOPBACK, 772)
            assert captured == length
            found.append(ring.memory[at + offset : at + offset + captured])
            at += following
        ring.give_back()
        assert ring.take() is None
        assert ring.dropped() == 0
    return found


@pytest.mark.parametrize("index", [0, LOOPBACK])
def test_what_is_sent_is_in_a_block(sock: socket.socket, index: int) -> None:
    # The answer of ICMP contains the payload, too.
    assert 14 + 20 + 8 + len(b"a packet") in {len(data) for data in receive(sock, index, b"a packet") if data.endswith(b"a packet")}


def test_a_packet_that_no_interface_of_ethernet_could_carry_is_whole(sock: socket.socket) -> None:
    payload = bytes(range(256)) * 200
    assert any(data.endswith(payload) for data in receive(sock, LOOPBACK, payload))


@pytest.mark.root
def test_a_user_without_any_capability_can_use_a_socket_that_was_given_to_it(sock: socket.socket) -> None:
    assert as_user(ALICE, lambda: len(receive(sock, 0, b"a packet"))) > 0


def test_packets_without_a_free_block_are_counted(sock: socket.socket) -> None:
    with PacketRing(sock) as ring, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        receive_from(sock, LOOPBACK)
        # Each is received twice, when it is sent and when it arrives.  Nobody gives blocks back.
        for _ in range(len(ring.memory) // 60000 // 2 + 2 * BLOCK_SIZE // 60000):
            sender.sendto(bytes(60000), ("127.0.0.1", 9))
        assert ring.dropped() > 0
        assert ring.dropped() == 0


def test_other_sockets_have_no_ring() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, pytest.raises(OSError, match="not available"):
        PacketRing(other)


def test_an_interface_that_does_not_exist_is_an_error(sock: socket.socket) -> None:
    with pytest.raises(OSError, match="No such device"):
        receive_from(sock, 1 << 30)
