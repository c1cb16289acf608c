"""Classic BPF programs that decide which packets a socket receives: SO_ATTACH_FILTER in socket(7), and the kernel's filter.rst."""

import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

_SO_ATTACH_FILTER = 26
_INSTRUCTION = struct.Struct("=HBBI")


class Instruction(NamedTuple):
    """struct sock_filter: an operation, how many instructions are skipped if a comparison holds or fails, and an operand."""

    code: int
    if_true: int
    if_false: int
    operand: int


def attach(sock: socket.socket, program: Sequence[Instruction]) -> None:
    """Let `sock` (borrowed) receive only what `program` accepts, from now on.  It replaces the program that was attached before.

    What has been received before stays.  Raises OSError: EINVAL for a program that is wrong or longer than 4096 instructions,
    ENOMEM when it is longer than this user may have (net.core.optmem_max).
    """
    text = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*instruction) for instruction in program))
    # struct sock_fprog.  The kernel copies the program before setsockopt(2) returns.
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(text)))
