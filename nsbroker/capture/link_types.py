"""The kinds of link-level headers that can be captured, by the hardware types of interfaces."""

from collections.abc import Mapping
from typing import NamedTuple

LOOPBACK = 772
"""ARPHRD_LOOPBACK, the hardware type of lo."""


class LinkType(NamedTuple):
    """A kind of link-level header: its number in files (LINKTYPE_*), its number and its name in libpcap (DLT_*), and its title."""

    number: int
    dlt: int
    name: str
    title: str


ETHERNET = LinkType(1, 1, "EN10MB", "Ethernet")
RAW_IP = LinkType(101, 12, "RAW", "Raw IP")

BY_HARDWARE: Mapping[int, LinkType] = {
    1: ETHERNET,  # ARPHRD_ETHER: veth, bridges, taps, VLANs, ...
    LOOPBACK: ETHERNET,
    0xFFFE: RAW_IP,  # ARPHRD_NONE: tun, WireGuard
    768: RAW_IP,  # ARPHRD_TUNNEL: ipip
    769: RAW_IP,  # ARPHRD_TUNNEL6
    776: RAW_IP,  # ARPHRD_SIT
}
"""The link type by the hardware type (ARPHRD_*): what libpcap uses for it.  Others cannot be captured."""


def hardware_types(link_type: LinkType) -> list[int]:
    """Return the hardware types that have this link type."""
    return [number for number, its in BY_HARDWARE.items() if its is link_type]
