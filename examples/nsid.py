"""Ask the kernel which number our network namespace has for the network namespace of descriptor 3 (RTM_GETNSID).

nsbroker open name:blue -- python3 examples/nsid.py

This takes no privilege.
"""

import os
import socket
import struct
import sys

RTM_NEWNSID, RTM_GETNSID = 88, 90
NETNSA_NSID, NETNSA_FD = 1, 3
NLM_F_REQUEST = 1


def main(*arguments: str) -> None:
    """Send the request, and print the number."""
    if arguments:
        print("usage: nsbroker open TARGET -- python3 examples/nsid.py (it has no arguments)", file=sys.stderr)
        raise SystemExit(2)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        attribute = struct.pack("=HHI", 8, NETNSA_FD, 3)
        body = struct.pack("=B3x", socket.AF_UNSPEC) + attribute
        netlink.send(struct.pack("=IHHII", 16 + len(body), RTM_GETNSID, NLM_F_REQUEST, 1, 0) + body)
        reply = netlink.recv(4096)
    message_type = struct.unpack_from("=H", reply, 4)[0]
    if message_type != RTM_NEWNSID:
        raise SystemExit(f"the kernel replied: {os.strerror(-struct.unpack_from('=i', reply, 16)[0])}")
    number = struct.unpack_from("=i", reply, 24)[0]
    inode = os.fstat(3).st_ino
    print(f"net:[{inode}] is", f"number {number} here" if number >= 0 else "known here, but has no number yet")


if __name__ == "__main__":
    main(*sys.argv[1:])
