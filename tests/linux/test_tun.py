"""Taps in real networks.  /dev/net/tun may be root's alone."""

import fcntl
import os
import select
import socket
import struct
from collections.abc import Iterator

import pytest

from nsbroker.linux import rtnetlink, tun
from nsbroker.namespace import Namespace
from tests.world import ALICE, PATIENCE

pytestmark = pytest.mark.root

_TUNGETIFF = 0x800454D2
_IFF_TAP, _IFF_NO_PI, _IFF_PERSIST = 0x2, 0x1000, 0x800
_ETHERTYPE = 0x88B5
"""For experiments: IEEE Std 802."""
BROADCAST = b"\xff" * 6 + b"\x02\0\0\0\0\x01" + struct.pack("!H", _ETHERTYPE)


@pytest.fixture
def network() -> Iterator[Namespace]:
    with Namespace.create("net") as ns:
        yield ns


@pytest.fixture
def tap(network: Namespace) -> Iterator[int]:
    fd = network.call(tun.open_clone)
    tun.add_tap(fd, "tap0", ALICE)
    yield fd
    os.close(fd)


def names(ns: Namespace) -> list[str]:
    return [name for _, name in ns.call(socket.if_nameindex) if name.startswith("tap")]


def test_a_tap_is_what_was_asked_for(network: Namespace, tap: int) -> None:
    assert names(network) == ["tap0"]
    name, flags = struct.unpack("16sH22x", fcntl.ioctl(tap, _TUNGETIFF, bytes(40)))
    assert name.rstrip(b"\0") == b"tap0"
    assert flags & (_IFF_TAP | _IFF_NO_PI | _IFF_PERSIST) == _IFF_TAP | _IFF_NO_PI
    assert not os.get_inheritable(tap)
    facts = os.fstat(tap)
    assert (os.major(facts.st_rdev), os.minor(facts.st_rdev)) == tun.DEVICE


def test_frames_go_in_and_out(network: Namespace, tap: int) -> None:
    with network.call(rtnetlink.connect) as sock:
        rtnetlink.set_up(sock, "tap0")
    with network.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETHERTYPE)) as packets:
        packets.bind(("tap0", _ETHERTYPE))
        packets.settimeout(PATIENCE)
        os.write(tap, BROADCAST + b"inwards")
        assert packets.recv(100) == BROADCAST + b"inwards"
        packets.send(BROADCAST + b"outwards")
        frame = b""
        while _ETHERTYPE.to_bytes(2, "big") != frame[12:14]:
            # The network says hello over IPv6, too.
            assert select.select([tap], [], [], PATIENCE)[0]
            frame = os.read(tap, 65536)
    assert frame == BROADCAST + b"outwards"


def test_it_ends_with_its_last_descriptor(network: Namespace) -> None:
    fd = network.call(tun.open_clone)
    tun.add_tap(fd, "tap0", ALICE)
    copy = os.dup(fd)
    os.close(fd)
    assert names(network) == ["tap0"]
    os.close(copy)
    assert names(network) == []


def test_a_name_that_is_taken_is_refused(network: Namespace, tap: int) -> None:
    fd = network.call(tun.open_clone)
    try:
        with pytest.raises(OSError, match="busy"):
            tun.add_tap(fd, "tap0", ALICE)
    finally:
        os.close(fd)
    assert names(network) == ["tap0"]


def test_an_owner_with_the_largest_uid_is_possible(network: Namespace) -> None:
    fd = network.call(tun.open_clone)
    tun.add_tap(fd, "tap1", 2**32 - 2)
    os.close(fd)
