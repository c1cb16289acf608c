"""The seccomp filter that lets socket(2) calls wait for an answer: see seccomp(2), and the kernel's include/uapi/linux/filter.h."""

import errno
import platform
import socket
import struct
from typing import NamedTuple

FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, socket.AF_VSOCK)
"""The address families whose socket(2) calls wait for an answer."""

INSTRUCTION = struct.Struct("=HBBI")
"""struct sock_filter: the code, how far to jump if it is true and if not, and the operand."""

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_ALLOW = 0x7FFF0000
_USER_NOTIF = 0x7FC00000
_ERRNO = 0x00050000
# Offsets in struct seccomp_data.  Both architectures are little-endian, so the lower half of an argument comes first.
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_IO_URING_SETUP = 425  # from 424 on, numbers are the same on every architecture
_X32_BIT = 0x40000000
# Families that have nothing to do with a network, and so stay as they are.
_LOCAL_FAMILIES = (socket.AF_UNIX, socket.AF_ALG)


class Architecture(NamedTuple):
    """An architecture: its AUDIT_ARCH_* number, and the numbers of two system calls."""

    audit: int
    seccomp: int
    socket: int


_ARCHITECTURES = {"x86_64": Architecture(0xC000003E, 317, 41), "aarch64": Architecture(0xC00000B7, 277, 198)}


def architecture(machine: str | None = None) -> Architecture:
    """Return the architecture that platform.machine() calls `machine` (default: ours).  Raises ENOSYS when it is not known."""
    machine = machine or platform.machine()
    known = _ARCHITECTURES.get(machine)
    if known is None:
        raise OSError(errno.ENOSYS, f"the system calls of {machine} are not known")
    return known


def program(machine: str | None = None) -> bytes:
    """Return the BPF program of the filter for an architecture, as `architecture` does.

    All system calls of other architectures and of x32 fail with ENOSYS, because they have other numbers.  So does
    io_uring_setup(2), because seccomp does not see the sockets that are made through io_uring.  socket(2) waits for an answer for
    FAMILIES.  It fails with EAFNOSUPPORT for families that can reach a network and that the broker does not have: AF_SMC, for
    example, makes TCP connections.
    """
    known = architecture(machine)
    refused = _ERRNO | errno.ENOSYS
    lines = [
        *((_LOAD, 0, 0, _ARCHITECTURE), (_IF_EQUAL, 1, 0, known.audit), (_RETURN, 0, 0, refused)),
        # No architecture has a system call with such a number.
        *((_LOAD, 0, 0, _NUMBER), (_IF_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, refused)),
        *((_IF_EQUAL, 0, 1, _IO_URING_SETUP), (_RETURN, 0, 0, refused)),
        *((_IF_EQUAL, 1, 0, known.socket), (_RETURN, 0, 0, _ALLOW)),
        # The kernel reads the family as an int, so the upper half of the argument does not matter.
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
    ]
    for family in FAMILIES:
        lines += [(_IF_EQUAL, 0, 1, family), (_RETURN, 0, 0, _USER_NOTIF)]
    for family in _LOCAL_FAMILIES:
        lines += [(_IF_EQUAL, 0, 1, family), (_RETURN, 0, 0, _ALLOW)]
    lines.append((_RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT))
    return b"".join(INSTRUCTION.pack(*line) for line in lines)
