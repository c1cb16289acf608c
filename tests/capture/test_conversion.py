"""Packets as the kernel writes them into the ring, as blocks of the file."""

import mmap
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from nsbroker.capture import pcapng
from nsbroker.capture.conversion import Converter
from nsbroker.linux.packet_ring import PACKET, Block
from tests.capture import reader

pytestmark = pytest.mark.once

OFFSET = 82
FRAME = b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x08\0" + bytes(range(50))


class Given(NamedTuple):
    """A packet in the ring."""

    data: bytes
    length: int = len(FRAME)
    status: int = 1
    tag: int = 0
    protocol: int = 0
    interface: int = 1
    hardware: int = 772


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    with mmap.mmap(-1, 65536) as memory:
        yield memory


def convert(memory: mmap.mmap, packets: list[Given], most: int = 100) -> tuple[reader.Capture, Converter]:
    at = 48
    for number, (data, length, status, tag, protocol, interface, hardware) in enumerate(packets):
        following = (OFFSET + len(data) + 15) // 16 * 16
        fields = (following, 10, number, len(data), length, status, OFFSET, tag, protocol, interface, hardware)
        PACKET.pack_into(memory, at, *fields)
        memory[at + OFFSET : at + OFFSET + len(data)] = data
        at += following
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        converter = Converter(sock, "name:blue", "")
        blocks = converter.convert(memory, Block(48, len(packets)), most)
    return reader.read(pcapng.section_header("x") + blocks), converter


def test_times_lengths_and_data_are_those_of_the_kernel(memory: mmap.mmap) -> None:
    given = [Given(FRAME[:size], 100 + size) for size in range(14, 64)]
    found, converter = convert(memory, given)
    assert [interface.name for interface in found.interfaces] == ["lo"]
    assert [(one.data, one.length) for one in found.packets] == [(one.data, one.length) for one in given]
    assert [one.time for one in found.packets] == [10_000_000_000 + number for number in range(len(given))]
    assert (converter.packets, converter.counts) == (len(given), [len(given)])


def test_no_more_packets_than_wanted_are_converted(memory: mmap.mmap) -> None:
    found, converter = convert(memory, [Given(FRAME)] * 5, 3)
    assert len(found.packets) == converter.packets == 3


@pytest.mark.parametrize(("status", "protocol"), [(0x11, 0x8100), (0x51, 0x88A8)])
def test_a_vlan_tag_is_put_back(memory: mmap.mmap, status: int, protocol: int) -> None:
    found, _ = convert(memory, [Given(FRAME, 64, status, 0x6005, 0x88A8), Given(FRAME)])
    tagged = FRAME[:12] + struct.pack("!HH", protocol, 0x6005) + FRAME[12:]
    assert [(one.data, one.length) for one in found.packets] == [(tagged, 68), (FRAME, 64)]


def test_each_interface_is_described_before_its_first_packet(memory: mmap.mmap) -> None:
    raw = Given(FRAME[14:], interface=5000, hardware=0xFFFE)
    found, converter = convert(memory, [Given(FRAME), raw, Given(FRAME), raw._replace(status=0x11, tag=7)])
    assert [(one.name, one.link_type, one.description) for one in found.interfaces] == [
        ("lo", 1, "name:blue"),
        ("if5000", 101, "name:blue"),
    ]
    assert [one.interface.name for one in found.packets] == ["lo", "if5000", "lo", "if5000"]
    # There is no place for a tag in a packet without an Ethernet header.
    assert found.packets[3].data == FRAME[14:]
    assert converter.counts == [2, 2]
