"""The blocks of pcapng files: see draft-ietf-opsawg-pcapng.

Every block begins with its type and its length and ends with its length, so a file is whole after each of them.  Numbers are in
this machine's byte order, which the section header shows.  Time stamps are nanoseconds since 1970.
"""

import struct
from collections.abc import Iterable

SNAP_LENGTH = 262144
"""The captured length to which packets are cut, in bytes.  It is what tcpdump and dumpcap use, and the most that libpcap reads."""

ENHANCED_PACKET = 6
PACKET_HEADER = struct.Struct("=7I")
"""The beginning of an enhanced packet block: ENHANCED_PACKET, the length of the block, the number of the interface, the upper and
the lower half of the time, captured length, original length.  Then come the data, `PADDING` and the length of the block again.
"""
PACKET_OVERHEAD = 32
"""The bytes of an enhanced packet block beside the padded data."""
PADDING = (b"", bytes(3), bytes(2), bytes(1))
"""What follows data, by the remainder when its length is divided by 4."""
LENGTH = struct.Struct("=I")

_SECTION_HEADER = 0x0A0D0D0A
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_INTERFACE_DESCRIPTION = 1
_INTERFACE_STATISTICS = 5

_END_OF_OPTIONS = 0
_COMMENT = 1
_APPLICATION = 4
_IF_NAME = 2
_IF_DESCRIPTION = 3
_IF_TIME_RESOLUTION = 9
_IF_FILTER = 11
_START_TIME = 2
_END_TIME = 3
_RECEIVED = 4
_DROPPED = 5
_DROPPED_BY_SYSTEM = 7
_NANOSECONDS = bytes([9])
# The first byte says that the filter is text as libpcap takes it.
_LIBPCAP_TEXT = b"\0"

_HEAD = struct.Struct("=2I")
_SECTION = struct.Struct("=IHHq")
_INTERFACE = struct.Struct("=HHI")
_STATISTICS = struct.Struct("=3I")
_OPTION = struct.Struct("=HH")
_TIME = struct.Struct("=2I")
_COUNT = struct.Struct("=Q")
_OPTION_MAX = 65535


def section_header(application: str) -> bytes:
    """Return the block with which a file begins: it names the program that writes it.  The length of the section stays open."""
    return _block(_SECTION_HEADER, _SECTION.pack(_BYTE_ORDER_MAGIC, 1, 0, -1), [(_APPLICATION, _text(application))])


def interface_description(link_type: int, name: str, description: str, expression: str) -> bytes:
    """Return the block that describes an interface: its LINKTYPE_*, its name, where it is, and the filter (empty: none).

    The first one of a file has the number 0, and so on.
    """
    options = [(_IF_NAME, _text(name)), (_IF_DESCRIPTION, _text(description)), (_IF_TIME_RESOLUTION, _NANOSECONDS)]
    if expression:
        options.append((_IF_FILTER, _LIBPCAP_TEXT + _text(expression)))
    return _block(_INTERFACE_DESCRIPTION, _INTERFACE.pack(link_type, 0, SNAP_LENGTH), options)


def interface_statistics(number: int, start: int, end: int, received: int, dropped: int | None, comment: str = "") -> bytes:
    """Return the block that says how many packets of an interface were written, and how many the system dropped (None: unknown).

    `start` and `end` are the time stamps of the capture.
    """
    options = [(_START_TIME, _time(start)), (_END_TIME, _time(end)), (_RECEIVED, _COUNT.pack(received))]
    if dropped is not None:
        # Programs show the first of the two; the second is the one that the draft has for this.
        options += [(_DROPPED, _COUNT.pack(dropped)), (_DROPPED_BY_SYSTEM, _COUNT.pack(dropped))]
    if comment:
        options.append((_COMMENT, _text(comment)))
    return _block(_INTERFACE_STATISTICS, _STATISTICS.pack(number, end >> 32, end & 0xFFFFFFFF), options)


def whole_blocks(blocks: bytes, most: int) -> int:
    """Return the length of as many of the first `blocks` as are whole within `most` bytes."""
    end = 0
    while end + _HEAD.size <= len(blocks):
        _, length = _HEAD.unpack_from(blocks, end)
        if end + length > most:
            break
        end += length
    return end


def _block(kind: int, body: bytes, options: Iterable[tuple[int, bytes]]) -> bytes:
    text = b"".join(_option(code, value) for code, value in options) + _option(_END_OF_OPTIONS, b"")
    length = _HEAD.size + len(body) + len(text) + LENGTH.size
    return _HEAD.pack(kind, length) + body + text + LENGTH.pack(length)


def _option(code: int, value: bytes) -> bytes:
    return _OPTION.pack(code, len(value)) + value + PADDING[len(value) % 4]


def _text(text: str) -> bytes:
    # One byte is left for what may stand before it.
    return text.encode(errors="backslashreplace")[: _OPTION_MAX - 1]


def _time(nanoseconds: int) -> bytes:
    return _TIME.pack(nanoseconds >> 32, nanoseconds & 0xFFFFFFFF)
