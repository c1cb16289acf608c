"""Which packets are captured.  tests/cli/commands/test_capture.py has the kernel filter real ones."""

import itertools
import socket
import struct
from collections.abc import Sequence

import pytest

from nsbroker.capture import libpcap
from nsbroker.capture.filters import make_program
from nsbroker.capture.link_types import BY_HARDWARE, ETHERNET, RAW_IP
from nsbroker.errors import CommandFailed
from nsbroker.linux import socket_filter
from nsbroker.linux.socket_filter import Instruction
from tests.capture.wire import needs_libpcap

pytestmark = pytest.mark.once

ETHER, LOOPBACK, NONE, UNKNOWN = 1, 772, 0xFFFE, 824
INCOMING, OUTGOING = 0, 4
IP = bytes.fromhex("4500001d 0001 0000 4011 0000 0a000001 0a000002 0007 0009 0009 0000 78")
FRAME = bytes(12) + b"\x08\0" + IP


def accepted(program: Sequence[Instruction], data: bytes, hardware_type: int, packet_type: int = INCOMING) -> int:
    """Run a program as the kernel does, and return how many bytes it accepts."""
    at = value = index = 0
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        if code == 0x06:
            return operand
        if code == 0x05:
            at += operand
        elif code in (0x15, 0x45):
            holds = value == operand if code == 0x15 else bool(value & operand)
            at += if_true if holds else if_false
        elif operand >= 0xFFFFF000:
            value = {4: packet_type, 28: hardware_type}[operand - 0xFFFFF000]
        elif code == 0x54:
            value &= operand
        elif code == 0xB1:
            index = 4 * (data[operand] & 15)
        else:
            size, start = {0x20: "I", 0x28: "H", 0x30: "B", 0x48: "H", 0x40: "I", 0x50: "B"}[code], operand
            (value,) = struct.unpack_from(f"!{size}", data, start + (index if code >= 0x40 else 0))


def test_without_a_filter_every_packet_of_a_known_kind_is_accepted_once() -> None:
    program = make_program("")
    for hardware_type, packet_type in itertools.product(BY_HARDWARE, range(5)):
        twice = (hardware_type, packet_type) == (LOOPBACK, OUTGOING)
        assert bool(accepted(program, FRAME, hardware_type, packet_type)) != twice
    assert not accepted(program, FRAME, UNKNOWN)


@needs_libpcap
def test_a_filter_is_applied_to_each_kind_of_header() -> None:
    program = make_program("udp port 7")
    assert accepted(program, FRAME, ETHER) == accepted(program, FRAME, LOOPBACK) == accepted(program, IP, NONE) == 262144
    assert not accepted(program, FRAME, LOOPBACK, OUTGOING)
    for data, hardware_type in ((FRAME, ETHER), (IP, NONE)):
        assert not accepted(make_program("udp port 8"), data, hardware_type)
        assert not accepted(make_program("tcp"), data, hardware_type)


@needs_libpcap
def test_what_is_about_ethernet_fits_no_packet_without_it() -> None:
    program = make_program("ether src 00:00:00:00:00:00")
    assert accepted(program, FRAME, ETHER)
    assert not accepted(program, IP, NONE)
    with pytest.raises(CommandFailed, match="cannot be used"):
        make_program("ether src 00:00:00:00:00:00", NONE)


def test_a_program_for_one_interface_accepts_its_hardware_type_alone() -> None:
    assert BY_HARDWARE[ETHER] is ETHERNET
    assert BY_HARDWARE[NONE] is RAW_IP
    program = make_program("", NONE)
    assert accepted(program, IP, NONE)
    assert not accepted(program, FRAME, ETHER)


@needs_libpcap
@pytest.mark.parametrize("expression", ["tcp prot 80", "port", "host 1.2.3.4.5.6", "\udcff", "("])
def test_a_wrong_filter_is_wrong_usage(expression: str) -> None:
    with pytest.raises(CommandFailed, match="cannot be used") as failure:
        make_program(expression)
    assert failure.value.exit_code == 2


@needs_libpcap
def test_the_kernel_takes_a_long_filter() -> None:
    program = make_program(" or ".join(f"port {number}" for number in range(1, 60, 2)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        socket_filter.attach(sock, program)


def test_vlan_is_refused_with_what_to_do() -> None:
    with pytest.raises(CommandFailed, match="filter when you read the file"):
        make_program("tcp and vlan 5")


def test_without_libpcap_only_captures_without_a_filter_work(monkeypatch: pytest.MonkeyPatch) -> None:
    # libpcap cannot be removed from the machine for a test.
    monkeypatch.setattr(libpcap, "_load", lambda: None)
    assert make_program("")
    with pytest.raises(CommandFailed, match="libpcap, which compiles it, is not installed"):
        make_program("tcp")
