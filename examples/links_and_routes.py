"""Print the links and routes of a container's network, from a process without any privilege.

    python3 examples/links_and_routes.py docker:web

pyroute2 uses a netlink socket that the broker opened inside.  This takes a rule with sockets = ["netlink:dgram"].  With such a
socket, a process can read.  To change something, the process itself needs CAP_NET_ADMIN, too.
"""

import errno
import socket
import sys
from typing import Any

import pyroute2

import nsbroker


def route_socket(target: str) -> pyroute2.IPRoute:
    """Return an IPRoute of pyroute2 that uses a netlink socket inside `target`."""
    with nsbroker.connect() as broker:
        sock = broker.socket(target, socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE)
    # IPRoute takes the descriptor, and closes it.  It is built on asyncio, which demands the type SOCK_DGRAM.
    return pyroute2.IPRoute(fileno=sock.detach())


def may_change(routes: pyroute2.IPRoute, link: Any) -> bool:
    """Return whether the kernel lets this process change `link`.  It tries to set the state that the link already has."""
    try:
        routes.link("set", index=link["index"], state=link["state"])
    except pyroute2.NetlinkError as error:
        if error.code != errno.EPERM:
            raise
        return False
    return True


def main(*arguments: str) -> int:
    """Open the socket, print the links and the routes, and return the exit code."""
    if len(arguments) != 1:
        print("usage: python3 examples/links_and_routes.py TARGET", file=sys.stderr)
        return 2
    try:
        routes = route_socket(arguments[0])
    except nsbroker.NsbrokerError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, nsbroker.errors.InvalidTarget) else 1
    with routes:
        links = {link["index"]: link for link in routes.get_links()}
        for link in links.values():
            change = "may be changed" if may_change(routes, link) else "read only"
            print(f"link   {link.get('ifname'):<12}{link['state']:<6}{link.get('address') or '-':<20}{change}")
        for route in routes.get_routes(table=254):
            to = f"{route.get('dst')}/{route['dst_len']}" if route.get("dst") else "default"
            through = links.get(route.get("oif"))
            print(f"route  {to:<24}{route.get('gateway') or '-':<18}{through.get('ifname') if through else '-'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
