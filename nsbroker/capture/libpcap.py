"""Compiling filter expressions with the library of tcpdump and Wireshark: pcap-filter(7), pcap_compile(3PCAP).

Whoever has tcpdump or Wireshark has libpcap.  It is called in this process, with the user's own text, and asks no interface.
"""

import ctypes
import functools

from nsbroker.errors import CommandFailed
from nsbroker.linux.socket_filter import Instruction

# The second is the name in Debian.
_NAMES = ("libpcap.so.1", "libpcap.so.0.8")
_UNKNOWN_NETMASK = 0xFFFFFFFF
_WRONG_USAGE = 2


class _Instruction(ctypes.Structure):
    """struct bpf_insn."""

    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    """struct bpf_program."""

    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.POINTER(_Instruction)))


def compile_expression(expression: str, dlt: int, snap_length: int) -> list[Instruction]:
    """Return the program for packets with the link-level header `dlt` (DLT_*) that accepts what fits, up to `snap_length` bytes.

    Raises CommandFailed: for a wrong expression with the exit code of wrong usage, and when libpcap is not installed.
    """
    library = _load()
    if library is None:
        raise CommandFailed(
            "cannot use a filter: libpcap, which compiles it, is not installed: install tcpdump or libpcap, or capture without a "
            "filter"
        )
    handle = library.pcap_open_dead(dlt, snap_length)
    if not handle:
        raise CommandFailed("cannot compile the filter: libpcap has no memory left")
    program = _Program()
    try:
        if library.pcap_compile(handle, ctypes.byref(program), expression.encode(errors="surrogateescape"), 1, _UNKNOWN_NETMASK):
            reason = library.pcap_geterr(handle).decode(errors="backslashreplace")
            raise CommandFailed(f"the filter {expression[:200]!r} cannot be used: {reason} (see pcap-filter(7))", _WRONG_USAGE)
        try:
            return [Instruction(one.code, one.jt, one.jf, one.k) for one in program.instructions[: program.length]]
        finally:
            library.pcap_freecode(ctypes.byref(program))
    finally:
        library.pcap_close(handle)


@functools.cache
def _load() -> ctypes.CDLL | None:
    for name in _NAMES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.pcap_open_dead.restype = ctypes.c_void_p
        library.pcap_geterr.restype = ctypes.c_char_p
        library.pcap_geterr.argtypes = library.pcap_close.argtypes = (ctypes.c_void_p,)
        library.pcap_compile.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32)
        return library
    return None
