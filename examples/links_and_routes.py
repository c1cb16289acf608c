"""The links and routes of a container's network, from a process without any privilege.

    python3 examples/links_and_routes.py docker:web

pyroute2 asks over a netlink socket that the broker made inside.  The rule that this takes: sockets = ["netlink:dgram"].
Who holds such a socket can read; to change something the kernel wants CAP_NET_ADMIN of the process that asks, too.
"""

import errno
import socket
import sys
from typing import Any

import pyroute2

import nsbroker


def route_socket(target: str) -> pyroute2.IPRoute:
    """pyroute2's IPRoute on a netlink socket inside `target`."""
    with nsbroker.connect() as broker:
        sock = broker.socket(target, socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE)
    # It takes the descriptor over, and closes it.  asyncio, on which it is built, wants the type to be SOCK_DGRAM.
    return pyroute2.IPRoute(fileno=sock.detach())


def may_change(routes: pyroute2.IPRoute, link: Any) -> bool:
    """Whether the kernel lets this process change `link`: asks for the state that it has anyway, which changes nothing."""
    try:
        routes.link("set", index=link["index"], state=link["state"])
    except pyroute2.NetlinkError as error:
        if error.code != errno.EPERM:
            raise
        return False
    return True


def main(target: str) -> None:
    """Ask, print."""
    try:
        routes = route_socket(target)
    except nsbroker.NsbrokerError as error:
        raise SystemExit(str(error)) from error
    with routes:
        links = {link["index"]: link for link in routes.get_links()}
        for link in links.values():
            change = "may be changed" if may_change(routes, link) else "read only"
            print(f"link   {link.get('ifname'):<12}{link['state']:<6}{link.get('address') or '-':<20}{change}")
        for route in routes.get_routes(table=254):
            to = f"{route.get('dst')}/{route['dst_len']}" if route.get("dst") else "default"
            through = links.get(route.get("oif"))
            print(f"route  {to:<24}{route.get('gateway') or '-':<18}{through.get('ifname') if through else '-'}")


if __name__ == "__main__":
    main(sys.argv[1])
