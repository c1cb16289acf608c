"""Sending numbered Ethernet frames at a steady rate, faster than Python's own send().

usage: python -m tests.capture.generator INTERFACE COUNT RATE
"""

import ctypes
import socket
import struct
import sys
import time

ETHERTYPE = 0x88B5
"""The type of the frames: one for experiments, for which no program listens."""
SIZE = 64
"""The bytes of a frame."""

_BATCH = 256
_HEADER = struct.pack("!6s6sH", b"\x02\0\0\0\0\x02", b"\x02\0\0\0\0\x01", ETHERTYPE)
_NUMBER = struct.Struct("!Q")


class _Piece(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """struct mmsghdr: struct msghdr, and how many bytes of it were sent."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("pieces", ctypes.POINTER(_Piece)),
        ("count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent", ctypes.c_uint),
    )


def frame(number: int) -> bytes:
    """Return the frame with this number."""
    return (_HEADER + _NUMBER.pack(number)).ljust(SIZE, b"\0")


def number_of(data: bytes) -> int | None:
    """Return the number of a frame; None for any other packet."""
    return int(_NUMBER.unpack_from(data, len(_HEADER))[0]) if data.startswith(_HEADER) else None


def send(interface: str, count: int, rate: float) -> float:
    """Send the frames 0 to `count` - 1 through an interface of this network, `rate` of them a second.

    Returns how many seconds that took.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    frames = ctypes.create_string_buffer(b"".join(map(frame, range(_BATCH))))
    base = ctypes.addressof(frames)
    pieces = (_Piece * _BATCH)(*(_Piece(base + number * SIZE, SIZE) for number in range(_BATCH)))
    messages = (_Message * _BATCH)(*(_Message(None, 0, ctypes.pointer(piece), 1, None, 0, 0, 0) for piece in pieces))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((interface, 0))
        start = time.monotonic()
        for first in range(0, count, _BATCH):
            size = min(_BATCH, count - first)
            for number in range(size):
                _NUMBER.pack_into(frames, number * SIZE + len(_HEADER), first + number)
            done = 0
            while done < size:
                sent = libc.sendmmsg(sock.fileno(), ctypes.byref(messages, done * ctypes.sizeof(_Message)), size - done, 0)
                assert sent > 0, ctypes.get_errno()
                done += sent
            time.sleep(max(0.0, start + (first + size) / rate - time.monotonic()))
        return time.monotonic() - start


if __name__ == "__main__":
    print(send(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
