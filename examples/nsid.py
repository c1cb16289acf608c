"""Ask the kernel which number our network namespace gives to the one of descriptor 3.  Takes no privilege.

nsbroker open name:blue -- python3 examples/nsid.py
"""

import os
import socket
import struct

RTM_NEWNSID, RTM_GETNSID = 88, 90
NETNSA_NSID, NETNSA_FD = 1, 3
NLM_F_REQUEST = 1


def main() -> None:
    """Ask, print."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        attribute = struct.pack("=HHI", 8, NETNSA_FD, 3)
        body = struct.pack("=B3x", socket.AF_UNSPEC) + attribute
        netlink.send(struct.pack("=IHHII", 16 + len(body), RTM_GETNSID, NLM_F_REQUEST, 1, 0) + body)
        answer = netlink.recv(4096)
    kind = struct.unpack_from("=H", answer, 4)[0]
    if kind != RTM_NEWNSID:
        raise SystemExit(f"the kernel answers: {os.strerror(-struct.unpack_from('=i', answer, 16)[0])}")
    number = struct.unpack_from("=i", answer, 24)[0]
    inode = os.fstat(3).st_ino
    print(f"net:[{inode}] is", f"number {number} here" if number >= 0 else "known here, by no number yet")


if __name__ == "__main__":
    main()
