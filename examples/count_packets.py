"""Count the packets of a container's network by protocol, from a process without any privilege.

    python3 examples/count_packets.py docker:web 10

This takes a rule with sockets = ["packet:dgram"].  Such a socket receives packets without their link-level header (packet(7)).
"""

import socket
import sys
import time
from collections import Counter

import nsbroker

ETH_P_ALL = 3
ARPHRD_LOOPBACK = 772
# By ethertype: the name, and the offset of the protocol field in the IP header.
FIELDS = {0x0800: ("ipv4", 9), 0x86DD: ("ipv6", 6)}
NAMES = {0x0806: "arp", 1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}


def protocol(ethertype: int, packet: bytes) -> str:
    """Return a name such as `arp` or `ipv4 tcp`; a protocol that is not in NAMES is a number."""
    if ethertype not in FIELDS:
        return NAMES.get(ethertype, f"{ethertype:#06x}")
    name, offset = FIELDS[ethertype]
    return f"{name} {NAMES.get(packet[offset], packet[offset])}" if len(packet) > offset else name


def count(sock: socket.socket, seconds: float) -> Counter[str]:
    """Count the packets that `sock` receives within `seconds`, by protocol."""
    seen: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            packet, (_, ethertype, direction, hardware, _) = sock.recvfrom(40)
        except TimeoutError:
            break
        # On a loopback, the socket sees each packet twice, when it is sent and when it is received.  Count it once.
        if not (hardware == ARPHRD_LOOPBACK and direction == socket.PACKET_OUTGOING):
            seen[protocol(ethertype, packet)] += 1
    return seen


def main(target: str = "", seconds: str = "10", *others: str) -> int:
    """Open the socket, count the packets, print the result, and return the exit code."""
    if not target or others or not seconds.isdecimal():
        print("usage: python3 examples/count_packets.py TARGET [SECONDS]", file=sys.stderr)
        return 2
    try:
        with nsbroker.connect() as broker:
            sock = broker.socket(target, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    except nsbroker.NsbrokerError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, nsbroker.errors.InvalidTarget) else 1
    print(f"counting the packets of {target} for {seconds} seconds", flush=True)
    with sock:
        for name, packets in count(sock, float(seconds)).most_common():
            print(f"{name:<16}{packets:>10}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
