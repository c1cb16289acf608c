"""Files in the format pcapng, as others read them."""

import pytest

from nsbroker.capture import pcapng
from tests.capture import reader

pytestmark = pytest.mark.once

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
FRAME = bytes.fromhex("020000000002 020000000001 0800 4500001d 00010000 4011 0000 0a000001 0a000002 0007 0009 0009 0000 78")


def packet(number: int, time: int, data: bytes, length: int) -> bytes:
    pad = pcapng.PADDING[len(data) % 4]
    size = pcapng.PACKET_OVERHEAD + len(data) + len(pad)
    head = pcapng.PACKET_HEADER.pack(pcapng.ENHANCED_PACKET, size, number, time >> 32, time & 0xFFFFFFFF, len(data), length)
    return head + data + pad + pcapng.LENGTH.pack(size)


def file() -> bytes:
    return b"".join(
        [
            pcapng.section_header("a program"),
            pcapng.interface_description(1, "eth0", "docker:web", "udp port 7"),
            packet(0, START + 1, FRAME, len(FRAME)),
            pcapng.interface_description(1, "eth1", "docker:wéb", ""),
            packet(1, START + SECOND + 23, FRAME[:-3], 4000),
            pcapng.interface_statistics(0, START, START + 2 * SECOND, 1, 5, "a comment"),
            pcapng.interface_statistics(1, START, START + 2 * SECOND, 1, None),
        ]
    )


def test_everything_that_is_written_is_read() -> None:
    found = reader.read(file())
    first = reader.Interface(1, 262144, "eth0", "docker:web", "udp port 7")
    second = reader.Interface(1, 262144, "eth1", "docker:wéb", "")
    assert found.application == "a program"
    assert found.interfaces == [first, second]
    assert found.packets == [
        reader.Packet(first, START + 1, len(FRAME), FRAME),
        reader.Packet(second, START + SECOND + 23, 4000, FRAME[:-3]),
    ]
    assert found.statistics == {0: (1, 5), 1: (1, None)}


def test_tcpdump_reads_it() -> None:
    first, second = reader.tcpdump(file(), "-tt", "--time-stamp-precision=nano")
    assert first == "1700000000.000000001 IP 10.0.0.1.7 > 10.0.0.2.9: UDP, length 1"
    assert second.startswith("1700000001.000000023 IP ")


def test_a_file_is_whole_after_each_block_and_nowhere_else() -> None:
    text = file()
    ends = [0]
    for _, body in reader.blocks(text):
        ends.append(ends[-1] + len(body) + 12)
    for most in range(len(text) + 1):
        assert pcapng.whole_blocks(text, most) == max(end for end in ends if end <= most)


def test_text_that_is_too_long_for_an_option_is_cut() -> None:
    found = reader.read(pcapng.section_header("x" * 100000) + pcapng.interface_description(1, "lo", "\udcff", "y" * 70000))
    assert found.application == "x" * 65534
    assert found.interfaces[0].description == "\\udcff"
    assert found.interfaces[0].filter == "y" * 65534
