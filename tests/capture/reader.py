"""Reading pcapng files, independently of what writes them: every block must be whole."""

import struct
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from tests.via.conftest import need

_HEADS = {0x0A0D0D0A: 16, 1: 8, 5: 12, 6: 20}
"""The bytes before the options, or before the data of a packet, by the type of the block."""


class Interface(NamedTuple):
    """An interface description block."""

    link_type: int
    snap_length: int
    name: str
    description: str
    filter: str


class Packet(NamedTuple):
    """An enhanced packet block: its interface, its time in nanoseconds, its original length, and its data."""

    interface: Interface
    time: int
    length: int
    data: bytes


class Capture(NamedTuple):
    """What is in a file.  `statistics` are the received and the dropped packets of the interfaces, by their numbers."""

    application: str
    interfaces: list[Interface]
    packets: list[Packet]
    statistics: dict[int, tuple[int, int | None]]


def read(text: bytes) -> Capture:
    """Read a file.  Fails when a block is wrong or cut."""
    application = ""
    interfaces: list[Interface] = []
    packets: list[Packet] = []
    statistics: dict[int, tuple[int, int | None]] = {}
    for kind, body in blocks(text):
        head = body[: _HEADS[kind]]
        if kind == 6:
            number, high, low, captured, length = struct.unpack("=5I", head)
            data = body[len(head) : len(head) + captured]
            assert len(data) == captured
            packets.append(Packet(interfaces[number], high << 32 | low, length, data))
            continue
        options = dict(_options(body[len(head) :]))
        if kind == 1:
            link_type, _, snap_length = struct.unpack("=HHI", head)
            assert options[9] == b"\x09", "the time stamps are nanoseconds"
            texts = (options[2].decode(), options[3].decode(), options.get(11, b"\0")[1:].decode())
            interfaces.append(Interface(link_type, snap_length, *texts))
        elif kind == 5:
            number, *_ = struct.unpack("=3I", head)
            dropped = options.get(7)
            statistics[number] = (_count(options[4]), None if dropped is None else _count(dropped))
        else:
            assert head == struct.pack("=IHHq", 0x1A2B3C4D, 1, 0, -1)
            application = options[4].decode()
    return Capture(application, interfaces, packets, statistics)


def blocks(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the body of each block."""
    at = 0
    while at < len(text):
        kind, length = struct.unpack_from("=II", text, at)
        block = text[at : at + length]
        assert len(block) == length, "the last block is cut"
        assert length % 4 == 0
        assert block[-4:] == block[4:8]
        yield kind, block[8:-4]
        at += length


def whole(text: bytes) -> bytes:
    """Return `text` without its last block, if that is not whole yet."""
    at = 0
    while at + 8 <= len(text):
        (length,) = struct.unpack_from("=I", text, at + 4)
        if at + length > len(text):
            break
        at += length
    return text[:at]


def _options(text: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while True:
        code, length = struct.unpack_from("=HH", text, at)
        if code == 0:
            assert text[at:] == bytes(4)
            return
        yield code, text[at + 4 : at + 4 + length]
        at += 4 + (length + 3) // 4 * 4


def _count(value: bytes) -> int:
    return int(struct.unpack("=Q", value)[0])


def tcpdump(text: bytes, *options: str) -> list[str]:
    """Return the lines that tcpdump prints of a file.  Fails when it does not like the file; skips the test without tcpdump."""
    # As root, it would change to a user that a user namespace does not have.
    command = ["unshare", "--user", "--map-user=65534", need("tcpdump"), "-nr", "-", *options]
    done = subprocess.run(command, input=text, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().splitlines()
