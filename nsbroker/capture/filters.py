"""The programs that decide which packets of a network are captured.

One packet socket receives from interfaces of several kinds, and a filter expression is a different program for each kind of
link-level header.  So the whole program begins with a dispatch by the hardware type of the packet's interface.
"""

import re
from collections.abc import Mapping, Sequence

from nsbroker.capture.libpcap import compile_expression
from nsbroker.capture.link_types import BY_HARDWARE, ETHERNET, LOOPBACK, RAW_IP, LinkType, hardware_types
from nsbroker.capture.pcapng import SNAP_LENGTH
from nsbroker.errors import CommandFailed
from nsbroker.linux.socket_filter import Instruction

# Operations of classic BPF, and what the kernel knows beside the data of a packet: SKF_AD_* in linux/filter.h.
_LOAD_WORD = 0x20
_JUMP = 0x05
_JUMP_IF_EQUAL = 0x15
_RETURN = 0x06
_ANCILLARY = 0xFFFFF000
_PACKET_TYPE = _ANCILLARY + 4
_HARDWARE_TYPE = _ANCILLARY + 28
_OUTGOING = 4

_WRONG_USAGE = 2

NOTHING = (Instruction(_RETURN, 0, 0, 0),)
"""The program that accepts nothing."""
_EVERYTHING = (Instruction(_RETURN, 0, 0, SNAP_LENGTH),)
# On lo, a packet socket would see each packet twice: when it is sent and when it is received.
_SKIP_SENT_ON_LOOPBACK = (
    Instruction(_LOAD_WORD, 0, 0, _HARDWARE_TYPE),
    Instruction(_JUMP_IF_EQUAL, 0, 3, LOOPBACK),
    Instruction(_LOAD_WORD, 0, 0, _PACKET_TYPE),
    Instruction(_JUMP_IF_EQUAL, 0, 1, _OUTGOING),
    *NOTHING,
    Instruction(_LOAD_WORD, 0, 0, _HARDWARE_TYPE),
)


def make_program(expression: str, hardware_type: int | None = None) -> list[Instruction]:
    """Return the program that accepts the packets that fit `expression` (empty: all).

    They are those of all interfaces, or of interfaces with this hardware type, which must have a link type.  Packets with another
    hardware type are not accepted.  Raises CommandFailed for an expression that cannot be used.
    """
    if hardware_type is not None:
        link_type = BY_HARDWARE[hardware_type]
        return _dispatch({link_type: _compile(expression, link_type)})
    programs = {ETHERNET: _compile(expression, ETHERNET)}
    try:
        programs[RAW_IP] = _compile(expression, RAW_IP)
    except CommandFailed:
        # It is about Ethernet, such as `ether host`, and so fits no packet without an Ethernet header.
        programs[RAW_IP] = NOTHING
    return _dispatch(programs)


def _compile(expression: str, link_type: LinkType) -> Sequence[Instruction]:
    if not expression:
        return _EVERYTHING
    if re.search(r"\bvlan\b", expression):
        raise CommandFailed(
            "a filter cannot use `vlan` here, because the kernel takes the VLAN tag off a packet before it filters: capture "
            "without it, and filter when you read the file: tcpdump -r FILE vlan",
            _WRONG_USAGE,
        )
    return compile_expression(expression, link_type.dlt, SNAP_LENGTH)


def _dispatch(programs: Mapping[LinkType, Sequence[Instruction]]) -> list[Instruction]:
    """Return one program that runs that of the packet's link type."""
    compared = [(number, link_type) for link_type in programs for number in hardware_types(link_type)]
    # There are two instructions for each hardware type, and one for all others.
    begin, at = {}, 2 * len(compared) + len(NOTHING)
    for link_type, program in programs.items():
        begin[link_type] = at
        at += len(program)
    table: list[Instruction] = []
    for number, link_type in compared:
        table.append(Instruction(_JUMP_IF_EQUAL, 0, 1, number))
        # A jump counts from the instruction behind it.
        table.append(Instruction(_JUMP, 0, 0, begin[link_type] - len(table) - 1))
    return [*_SKIP_SENT_ON_LOOPBACK, *table, *NOTHING, *(one for program in programs.values() for one in program)]
