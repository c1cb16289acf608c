"""Receiving packets through a ring of memory that the kernel fills: TPACKET_V3, in packet(7) and the kernel's packet_mmap.rst.

The kernel checks CAP_NET_RAW only when a packet socket is made.  So a process without any capability can do all of this with a
packet socket that it was given.
"""

import ctypes
import mmap
import socket
import struct
from typing import NamedTuple, Self

from nsbroker.linux.libc import check, libc

BLOCK_SIZE = 1 << 19
"""The bytes of a block.  Packets that do not fit into one are cut."""
BLOCKS = 64
"""The number of blocks: 32 MiB, which is more than a second of 100000 small packets per second."""
RETIRE_MILLISECONDS = 100
"""The milliseconds after which the kernel hands over a block that is not full."""

_SOL_PACKET = 263
_PACKET_RX_RING = 5
_PACKET_STATISTICS = 6
_PACKET_VERSION = 10
_TPACKET_V3 = 2
_ETH_P_ALL = 3
_TP_STATUS_KERNEL = 0
_TP_STATUS_USER = 1
_FRAME_SIZE = 2048
_FRAMES = BLOCK_SIZE * BLOCKS // _FRAME_SIZE

# struct sockaddr_ll: the address is empty
_ADDRESS = struct.Struct("=HHi12x")
# struct tpacket_req3
_REQUEST = struct.Struct("=7I")
# struct tpacket_block_desc, from its status on: status, number of packets, offset of the first one
_STATUS_OFFSET = 8
_BLOCK = struct.Struct("=3I")
_STATUS = struct.Struct("=I")
# struct tpacket_stats_v3: packets, drops, how often the ring was full
_STATISTICS = struct.Struct("=3I")

PACKET = struct.Struct("=6IH6xIH10x4xiH")
"""struct tpacket3_hdr and the struct sockaddr_ll behind it: the offset of the next packet from here, seconds, nanoseconds, captured
length, original length, status, offset of the data from here, VLAN tag, VLAN protocol, index of the interface, ARPHRD_* type.
"""
VLAN_VALID = 0x10
"""The status of a packet whose VLAN tag the kernel has taken off (TP_STATUS_VLAN_VALID)."""
VLAN_PROTOCOL_VALID = 0x40
"""The status of a packet whose header also says the protocol of the VLAN tag (TP_STATUS_VLAN_TPID_VALID)."""


def receive_from(sock: socket.socket, index: int) -> None:
    """Let `sock` (borrowed, AF_PACKET) receive all packets of the interface `index` (0: of all interfaces), from now on.

    Python's own bind() takes no index, and so has no way to name all interfaces.  Raises OSError: ENODEV.
    """
    address = _ADDRESS.pack(socket.AF_PACKET, socket.htons(_ETH_P_ALL), index)
    check(libc.bind(sock.fileno(), ctypes.c_char_p(address), ctypes.c_uint32(len(address))))


class Block(NamedTuple):
    """A block that the kernel has handed over: where in the memory the header of its first packet is, and how many there are."""

    first: int
    packets: int


class PacketRing:
    """The ring of one packet socket."""

    def __init__(self, sock: socket.socket) -> None:
        """Give `sock` (borrowed, AF_PACKET, not bound yet) a ring.  Raises OSError: ENOMEM, EINVAL for any other socket."""
        sock.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V3)
        request = _REQUEST.pack(BLOCK_SIZE, BLOCKS, _FRAME_SIZE, _FRAMES, RETIRE_MILLISECONDS, 0, 0)
        sock.setsockopt(_SOL_PACKET, _PACKET_RX_RING, request)
        self._sock = sock
        self.memory = mmap.mmap(sock.fileno(), BLOCK_SIZE * BLOCKS)
        """All blocks.  It is mapped until `close`, and has a descriptor of its own for the socket."""
        self._current = 0

    def take(self) -> Block | None:
        """Return the next block that the kernel has handed over, or None.  It is the same one until `give_back`."""
        start = self._current * BLOCK_SIZE
        status, packets, offset = _BLOCK.unpack_from(self.memory, start + _STATUS_OFFSET)
        return Block(start + offset, packets) if status & _TP_STATUS_USER else None

    def give_back(self) -> None:
        """Give the block that `take` returned to the kernel, which will overwrite it."""
        _STATUS.pack_into(self.memory, self._current * BLOCK_SIZE + _STATUS_OFFSET, _TP_STATUS_KERNEL)
        self._current = (self._current + 1) % BLOCKS

    def dropped(self) -> int:
        """Return how many packets the kernel has dropped since the last call, because no block was free (PACKET_STATISTICS)."""
        statistics = self._sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
        return int(_STATISTICS.unpack(statistics)[1])

    def close(self) -> None:
        """Unmap the memory.  The kernel frees it when the socket is closed, too."""
        self.memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
