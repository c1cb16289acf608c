"""Turning packets in the kernel's ring into blocks of pcapng."""

import mmap
import socket
import struct

from nsbroker.capture import pcapng
from nsbroker.capture.link_types import BY_HARDWARE, ETHERNET
from nsbroker.linux import network_interfaces
from nsbroker.linux.packet_ring import PACKET, VLAN_PROTOCOL_VALID, VLAN_VALID, Block

# Between the two addresses and the type of an Ethernet header.
_TAG_OFFSET = 12
_TAG = struct.Struct("!HH")
_VLAN = 0x8100  # ETH_P_8021Q
_BILLION = 1_000_000_000


class Converter:
    """Converts packets, and describes an interface before its first packet."""

    def __init__(self, sock: socket.socket, where: str, expression: str) -> None:
        """Borrows `sock`, which is asked for the names of interfaces.  `where` and `expression` are for their descriptions."""
        self._sock = sock
        self._where = where
        self._expression = expression
        self._numbers: dict[int, int] = {}
        self.counts: list[int] = []
        """How many packets of each interface were converted, by its number in the file."""

    @property
    def packets(self) -> int:
        """How many packets were converted."""
        return sum(self.counts)

    def describe(self, index: int, hardware_type: int) -> bytes:
        """Return the block that describes the interface `index`, which gets the next number."""
        try:
            name = network_interfaces.name_of(self._sock, index)
        except OSError:
            name = f"if{index}"  # It is gone already.
        self._numbers[index] = len(self.counts)
        self.counts.append(0)
        return pcapng.interface_description(BY_HARDWARE[hardware_type].number, name, self._where, self._expression)

    def convert(self, memory: mmap.mmap, block: Block, most: int) -> bytes:
        """Return the blocks for at most `most` packets of a block of the ring."""
        at, packets = block
        pieces: list[bytes] = []
        # This runs a hundred thousand times a second, so nothing is looked up twice.
        add, unpack, pack = pieces.append, PACKET.unpack_from, pcapng.PACKET_HEADER.pack
        pack_length, padding, numbers, counts = pcapng.LENGTH.pack, pcapng.PADDING, self._numbers, self.counts
        kind, overhead = pcapng.ENHANCED_PACKET, pcapng.PACKET_OVERHEAD
        for _ in range(min(packets, most)):
            following, seconds, nanoseconds, captured, length, status, offset, tag, protocol, index, hardware = unpack(memory, at)
            number = numbers.get(index)
            if number is None:
                add(self.describe(index, hardware))
                number = numbers[index]
            counts[number] += 1
            data = memory[at + offset : at + offset + captured]
            if status & VLAN_VALID and BY_HARDWARE[hardware] is ETHERNET:
                data = _restore_tag(data, tag, protocol if status & VLAN_PROTOCOL_VALID else _VLAN)
                captured += _TAG.size
                length += _TAG.size
            time = seconds * _BILLION + nanoseconds
            pad = padding[captured % 4]
            size = overhead + captured + len(pad)
            add(pack(kind, size, number, time >> 32, time & 0xFFFFFFFF, captured, length))
            add(data)
            add(pad)
            add(pack_length(size))
            at += following
        return b"".join(pieces)


def _restore_tag(data: bytes, tag: int, protocol: int) -> bytes:
    """Return an Ethernet frame with the VLAN tag that the kernel has taken off it."""
    return data[:_TAG_OFFSET] + _TAG.pack(protocol, tag) + data[_TAG_OFFSET:]
